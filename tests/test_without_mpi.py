"""One process needs neither mpi4py nor an MPI library; several are refused without them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import environment
from patience import patient

from hpcsamp import serial
from hpcsamp.launcher import ApartError, check_alone

#: An h5py that was built with MPI imports mpi4py itself, so it comes first.
BLOCKED = """
import sys, h5py
sys.modules["mpi4py"] = sys.modules["mpi4py.MPI"] = None
"""
RUN = (
    BLOCKED
    + """
import json
from hpcsamp.cli import app

for line in json.loads(sys.argv[1]):
    app(line, standalone_mode=False)
"""
)


def run(code, *arguments, **variables):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=patient(120),
        env=environment() | variables,
    )
    return done


def test_a_run_from_its_data_to_its_report(tmp_path):
    data, folder = str(tmp_path / "digits"), str(tmp_path / "run")
    short = ["--set", "training.steps=3", "--set", "method.samples=2", "--output", folder]
    lines = [
        ["ingest", "digits", "--out", data],
        ["inspect", data, "--verify"],
        ["train", "vit-digits", "--data", data, *short],
        ["train", "vit-digits", "--data", data, *short, "--resume"],
        ["evaluate", folder, "--samples=2", "--set=data.reader=collective"],
        ["predict", folder, "--samples=2", "--out", str(tmp_path / "p.h5")],
        ["report", folder],
    ]
    done = run(RUN, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    assert "all intact" in done.stdout
    assert "done: 3 steps" in done.stdout
    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert starts[0]["mpi"]["library"] == "none: one process without MPI"


@pytest.mark.parametrize(
    ("variables", "status"),
    [
        ({}, 0),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, 0),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, 2),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, 2),
        ({"SLURM_STEP_ID": "0", "SLURM_HET_SIZE": "2", "SLURM_PROCID": "0"}, 2),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 0),  # a batch script
        ({"PALS_RANKID": "0"}, 2),
    ],
)
def test_ranks_without_mpi4py(variables, status, monkeypatch):
    """Refused is what cannot find the others."""
    if status == 0:
        check_alone(variables, "No module named 'mpi4py'")
        return
    with pytest.raises(ApartError) as error:
        check_alone(variables, "No module named 'mpi4py'")
    assert "pip install 'hpcsamp[mpi]'" in str(error.value)
    assert error.value.exit_code == status


def test_the_refusal_is_one_line_of_one_rank():
    for rank, lines in (("0", 1), ("1", 0)):
        done = run(
            BLOCKED + "from hpcsamp.cli import main; sys.argv[1:] = ['inspect', '.']; main()",
            OMPI_COMM_WORLD_SIZE="2",
            OMPI_COMM_WORLD_RANK=rank,
        )
        assert done.returncode == 2
        told = done.stderr.splitlines()
        assert len(told) == lines, done.stderr
        assert all("mpi4py cannot be imported" in line for line in told)


def test_an_mpi_that_fails_to_load_is_no_mpi():
    """mpi4py raises RuntimeError where it finds no library."""
    done = run(
        """
import sys, types
import importlib.abc, importlib.machinery

class Fails(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "mpi4py.MPI":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise RuntimeError("cannot load MPI library")

sys.meta_path.insert(0, Fails())
from hpcsamp.runtime import mpi
print(mpi().Get_library_version())
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "none: one process without MPI\n"


def test_exchanges_of_one_process():
    comm = serial.COMM_WORLD
    array, out = np.arange(6.0).reshape(2, 3), np.zeros(6)
    comm.Allreduce(array, out)
    np.testing.assert_array_equal(out, array.ravel())
    comm.Allgatherv(2 * array, (out, [6]))
    np.testing.assert_array_equal(out, 2 * array.ravel())
    comm.Reduce_scatter(array, out, [6])
    np.testing.assert_array_equal(out, array.ravel())
    comm.Allreduce(serial.IN_PLACE, array)
    np.testing.assert_array_equal(array.ravel(), np.arange(6.0))
    assert comm.allgather("a") == comm.gather("a") == ["a"]
    assert comm.Split(serial.UNDEFINED) is None
    assert comm.Split(0).Dup().Get_size() == 1
    assert serial.library(comm) is serial
