"""What the launcher started and what MPI found are compared before a command does anything."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import environment
from patience import patient

from hpcsamp import launcher
from hpcsamp.launcher import ApartError, check, one_of_several, stated

STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
#: Open MPI's ranks in a job of two nodes: mpirun is a step of one task a node.
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        ({}, 1),
        (BATCH, 1),  # alone in a batch script of several tasks
        (BATCH | MPIRUN, 4),
        (STEP | MPIRUN | {"SLURM_STEP_NUM_TASKS": "2"}, 4),
        (STEP | {"PMIX_RANK": "2"}, 4),  # srun --mpi=pmix
        (STEP | {"PMI_RANK": "2", "PMI_SIZE": "4"}, 4),  # srun --mpi=pmi2
        (STEP, 4),  # PMI-1 of Slurm needs no variables
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, 1),  # srun -n1
        (STEP | {"SLURM_PTY_PORT": "4", "PMIX_RANK": "0"}, 1),  # the shell of srun --pty
        (STEP | {"SLURM_HET_SIZE": "2"}, 8),
        (MPIRUN | {"PMI_SIZE": "1"}, 1),  # one within the other: either may be meant
        ({"OMPI_COMM_WORLD_SIZE": ""}, 1),
    ],
)
def test_no_false_alarm(variables, size):
    check(variables, size)


@pytest.mark.parametrize(
    ("variables", "size", "message"),
    [
        (STEP, 1, "srun started 4 processes that cannot find each other, because it offers no PMI"),
        (STEP | {"PMI_NO_FORK": "1"}, 1, "the launcher started 4 processes, but each sees"),
        (MPIRUN, 1, "the launcher started 4 processes, but each sees only itself (Some MPI)"),
        (MPIRUN, 2, "the launcher started 4 processes, but MPI connects only 2 of them (Some MPI)"),
        ({"PMI_SIZE": "3", "PMI_RANK": "2"}, 1, "the launcher started 3 processes"),
        ({"MV2_COMM_WORLD_SIZE": "3"}, 1, "the launcher started 3 processes"),
    ],
)
def test_ranks_that_are_apart(variables, size, message):
    with pytest.raises(ApartError) as error:
        check(variables, size, "Some MPI")
    assert message in str(error.value)
    assert "srun --mpi=pmix" in str(error.value)
    assert error.value.rank == int(variables.get("SLURM_PROCID", variables.get("PMI_RANK", 0))) or (
        error.value.rank == int(variables.get("OMPI_COMM_WORLD_RANK", -1))
    )


def test_one_of_several():
    assert not one_of_several(BATCH)
    assert one_of_several(STEP)
    assert one_of_several({"PALS_RANKID": "0"})
    assert stated(BATCH) == set()
    assert launcher.name(BATCH | MPIRUN) == "mpirun (Open MPI) in job 7"
    assert launcher.name({}) == "none"


COMMANDS = [
    ["train", "no-configuration"],
    ["train", "x", "--no-such-option"],
    ["evaluate", "no-run"],
    ["predict", "no-run", "--out", "p.h5"],
    ["ingest", "digits", "--out", "digits"],
    ["inspect", "no-data", "--verify"],
    ["bench", "step"],
]


def start(arguments, folder, **variables):
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment() | variables,
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_parallel_command_notices(arguments, tmp_path):
    """Two processes of a launcher that MPI does not know: one line in all, and no file."""
    both = [
        start(["-m", "hpcsamp", *arguments], tmp_path, PMI_SIZE="2", PMI_RANK=str(rank))
        for rank in (0, 1)
    ]
    done = [(*process.communicate(timeout=patient(100)), process.returncode) for process in both]
    assert [code for _, _, code in done] == [2, 2], done
    assert done[1][:2] == ("", "")
    out, err, _ = done[0]
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "the launcher started 2 processes, but each sees only itself" in err
    assert list(tmp_path.iterdir()) == []


def test_a_loop_of_ones_own_notices(tmp_path):
    process = start(["-c", "import hpcsamp; hpcsamp.init()"], tmp_path, PMI_SIZE="2")
    _, err = process.communicate(timeout=patient(100))
    assert process.returncode == 2
    assert err.startswith("hpcsamp: error: the launcher started 2 processes")


def test_a_rank_that_is_stopped_before_mpi_starts_ends_the_job(script):
    code = """
import os, signal
from hpcsamp import launcher, runtime
launcher.LONGEST_START = 2.0
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    os.kill(os.getpid(), signal.SIGSTOP)
runtime.mpi()
"""
    done = script(2, code, timeout=60)
    assert done.code != 0
    assert "Timeout (0:00:02)!" in done.err, done.err
    assert 'launcher.py", line' in done.err
