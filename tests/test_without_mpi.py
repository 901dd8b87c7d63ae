"""One process needs neither mpi4py nor an MPI library; several are refused without them.

The environment of these tests has none: packages of this one but for mpi4py and Horovod, and an
h5py from a package index, as one that was built with MPI imports mpi4py.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import environment
from patience import patient

from hpcsamp import serial
from hpcsamp.launcher import ApartError, check_alone

ROOT = Path(__file__).parent.parent
PACKAGES = Path(sysconfig.get_path("purelib"))
ABSENT = ("mpi4py", "horovod", "h5py", "pytest_isolate_mpi", "__editable__")
#: What a program of these tests ends with: nothing of MPI was installed, found or loaded.
NO_MPI = """
import importlib.util
for name in ("mpi4py", "horovod"):
    assert importlib.util.find_spec(name) is None, name
with open("/proc/self/maps") as maps:
    loaded = {line.split()[-1] for line in maps if "libmpi" in line or "libopen-pal" in line}
assert not loaded, loaded
"""
RUN = """
import json, sys
from hpcsamp.cli import app

for line in json.loads(sys.argv[1]):
    app(line, standalone_mode=False)
"""
NOTEBOOK = """
import sys
import numpy as np, torch
from torch import nn
import hpcsamp as hs

folder, given = sys.argv[1:]
x = np.random.default_rng(0).normal(size=(60, 3))
y = x[:, :1] - x[:, 1:2] ** 2
net = lambda: nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1))
posterior = hs.fit(net(), (x, y), method="mean_field", epochs=1, samples=2, output=folder)
again = hs.load(folder, module=net())
p, q = (one.predict(x[:3], samples=4) for one in (posterior, again))
assert np.array_equal(p["mean"].values, q["mean"].values)
assert np.isfinite(q["std_epistemic"].values).all()
assert hs.load(given).sample(2)

topology = hs.init()
collectives = hs.choose(topology)
assert collectives.name == "none"
method = hs.MeanField(net(), seed=1)
loss = hs.losses.ELBO(hs.losses.ExpectedNLL(hs.losses.Gaussian(1.0)), 60, collectives)
optimizer = hs.distribute(torch.optim.Adam(method.parameters()), collectives, method)
before = method.mean.detach().clone()
loss(method, torch.tensor(x).float(), torch.tensor(y).float(), samples=2).backward()
optimizer.step()
assert not torch.equal(before, method.mean)
for name in ("none", "mpi", "torch"):
    one = torch.ones(3)
    hs.choose(topology, name).reduce_gradient_(one)
    assert one.tolist() == [1, 1, 1]
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment without MPI."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    own = next(folder.glob("lib/python*/site-packages"))
    shared = folder / "shared"
    shared.mkdir()
    for path in PACKAGES.iterdir():
        if not path.name.startswith(ABSENT):
            (shared / path.name).symlink_to(path)
    (own / "shared.pth").write_text(f"{shared}\n{ROOT}\n")
    cache = Path(os.environ.get("HPCSAMP_CACHE", Path.home() / ".cache" / "hpcsamp"))
    links = [f"--find-links={path}" for path in cache.glob("fetched-*")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
         "--retries=1", "--timeout=15", *links, f"--target={own}", f"h5py=={version('h5py')}"],
        capture_output=True,
        text=True,
        timeout=patient(120),
    )  # fmt: skip
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        pytest.skip(f"no h5py without MPI can be had: {why}")
    return folder / "bin" / "python"


def run(python: Path, code: str, *arguments: object, **variables: str):
    return subprocess.run(
        [python, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=patient(180),
        env=environment() | {"PYTHONNOUSERSITE": "1"} | variables,
        cwd="/",
    )


def test_a_run_from_its_data_to_its_report(python, tmp_path):
    data, folder = str(tmp_path / "digits"), str(tmp_path / "run")
    short = ["--set", "training.steps=3", "--set", "method.samples=2", "--output", folder]
    lines = [
        ["ingest", "digits", "--out", data],
        ["inspect", data, "--verify"],
        ["train", "vit-digits", "--data", data, *short, "--set", "parallel.collectives=none"],
        ["train", "vit-digits", "--data", data, *short, "--resume"],
        ["evaluate", folder, "--samples=2"],
        ["predict", folder, "--samples=2", "--out", str(tmp_path / "p.h5")],
        ["report", folder],
        ["doctor"],
    ]
    done = run(python, RUN + NO_MPI, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    assert "all intact" in done.stdout
    assert "done: 3 steps" in done.stdout
    assert "problems: 0" in done.stdout
    assert "exchanges gradients" not in done.stdout
    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert starts[0]["mpi"]["library"] == "none: one process without MPI"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["collectives"] == {"name": "none"}
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 1000

    notebook = run(python, NOTEBOOK + NO_MPI, tmp_path / "fit", folder)
    assert notebook.returncode == 0, notebook.stderr


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


def test_the_refusal_is_one_line_of_one_rank(python):
    for rank, lines in (("0", 1), ("1", 0)):
        done = run(
            python,
            "import sys; from hpcsamp.cli import main; sys.argv[1:] = ['inspect', '.']; main()",
            OMPI_COMM_WORLD_SIZE="2",
            OMPI_COMM_WORLD_RANK=rank,
        )
        assert done.returncode == 2
        told = done.stderr.splitlines()
        assert len(told) == lines, done.stderr
        assert all("mpi4py cannot be imported" in line for line in told)


def test_an_mpi4py_without_an_mpi_library_is_no_mpi(python, tmp_path):
    """Its wheel loads the library at run time, and raises RuntimeError where there is none."""
    (tmp_path / "mpi4py").symlink_to(PACKAGES / "mpi4py")
    missing = str(tmp_path / "libmpi.so")
    done = run(
        python,
        "from hpcsamp.runtime import mpi; print(mpi().Get_library_version())",
        PYTHONPATH=str(tmp_path),
        MPI4PY_LIBMPI=missing,
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


def test_no_test_file_needs_mpi_to_be_collected():
    """``pytest -m gpu`` reads all of them, also on a machine without an MPI library."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name.startswith("test_") or path.name == "conftest.py":
            tree = ast.parse(path.read_text())
            for node in tree.body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(n.split(".")[0] == "mpi4py" for n in names), path.name
