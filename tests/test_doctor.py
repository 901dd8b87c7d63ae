"""The doctor: what it concludes from what it sees, that it sees it, and that it never hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import environment, launch
from patience import patient
from typer import Typer
from typer.testing import CliRunner

from hpcsamp.cli.doctor import doctor
from hpcsamp.doctor import Check, Diagnosis, RankPlace, examine, job
from hpcsamp.doctor import ranks as on_ranks
from hpcsamp.doctor.check import NoAnswerError, bounded, merge, spans
from hpcsamp.doctor.software import cpu_flags, packages
from hpcsamp.doctor.storage import file_system_of, locking, parallel_hdf5, room

NAMES = [
    "Python", "packages", "package", "torch", "bfloat16", "torch_blue", "torchvision",
    "file system", "shared memory", "MPI", "MPI threads", "MPI allreduce", "waiting ranks",
    "Horovod", "parallel HDF5", "cores", "threads", "GPU", "job", "grid",
]  # fmt: skip


def places(count, cores=range(8), launcher=None, threads=1, per_node=None, gpus=()):
    """Ranks that all look alike."""
    per_node = per_node or count
    return [
        RankPlace(
            rank=r,
            host=f"node{r // per_node}",
            node=r - r % per_node,
            cores=tuple(cores),
            launcher_cores=tuple(cores if launcher is None else launcher),
            threads=threads,
            gpus=tuple(gpus),
            device=gpus[r % per_node % len(gpus)] if gpus else "cpu",
        )
        for r in range(count)
    ]


# What is concluded --------------------------------------------------------------------------------


def test_findings_of_ranks_become_one():
    fine, slow = Check("x", "ok", "fine"), Check("x", "warning", "slow", "hurry")
    broken = Check("x", "problem", "broken", "mend")
    assert merge([fine, fine]) == fine
    assert merge([slow, fine, slow, slow]) == Check("x", "warning", "ranks 0, 2-3: slow", "hurry")
    assert merge([slow, broken, fine]) == Check("x", "problem", "rank 1: broken", "mend")
    assert spans([8, 0, 1, 2]) == "0-2, 8"


def test_cores():
    assert on_ranks.cores(places(4)).status == "ok"
    assert "at least 2 cores" in on_ranks.cores(places(8, per_node=4)).found
    many = on_ranks.cores(places(9))
    assert (many.status, many.found) == ("warning", "node0: 9 ranks share 8 cores")
    assert "at most 8 ranks" in many.mend
    # Four ranks that mpirun pinned onto one core of eight
    pinned = on_ranks.cores(places(4, cores=[0], launcher=range(8)))
    assert pinned.found == "node0: 4 ranks are bound to 1 core (0) of 8"
    assert "--bind-to none" in pinned.mend
    # One rank that was given one core where eight are there
    idle = on_ranks.cores(places(1, cores=[0], launcher=range(8)))
    assert idle.status == "warning"
    assert "7 of the launcher's are idle" in idle.found
    # ... but two nodes of which only the second is too full
    mixed = places(4, per_node=4) + [replace(p, node=4, host="b") for p in places(9)]
    assert on_ranks.cores(mixed).found == "b: 9 ranks share 8 cores"


def test_threads():
    assert on_ranks.threads(places(4, threads=2), {}).found == "2 per rank (cores / ranks)"
    wild = on_ranks.threads(places(4, threads=8), {"OMP_NUM_THREADS": "8"})
    assert wild.found == "node0: 4 ranks with 32 threads on 8 cores"
    assert wild.mend.startswith("set OMP_NUM_THREADS=2")
    # More ranks than cores is said once, by `cores`.
    assert on_ranks.threads(places(16), {}).status == "ok"


MPI4PY = """
import sys, types
case = sys.argv[1]
if case == "absent":
    sys.modules["mpi4py"] = None
else:  # an mpi4py whose MPI cannot be imported, as the wheel's without a library
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "mpi4py.MPI":
                raise {"library": RuntimeError, "linker": ImportError}[case](
                    "cannot load MPI library\\nlibmpi.so.40: cannot open shared object file"
                )
    sys.meta_path.insert(0, Finder())
from hpcsamp.doctor import parallel
from hpcsamp.runtime import mpi
check = parallel.library(mpi().COMM_WORLD)
print(check.status, check.found, check.mend, sep="|")
"""


@pytest.mark.parametrize(
    ("case", "found", "mend"),
    [
        ("absent", "mpi4py is not installed", "pip install 'hpcsamp[mpi]'"),
        ("library", "libmpi.so.40: cannot open shared object file", "load the MPI module"),
        ("linker", "cannot be imported (cannot load MPI library", "python -m mpi4py"),
    ],
)
def test_why_there_is_no_mpi(case, found, mend):
    command = [sys.executable, "-c", MPI4PY, case]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patient(20), env=environment()
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    status, said, how = line.split("|")
    assert (status, found in said, mend in how) == ("warning", True, True), line


def test_gpus(tmp_path):
    assert on_ranks.gpus(places(2), tmp_path).found == "none: training uses the CPU"
    (tmp_path / "nvidiactl").touch()
    assert "torch does not see it" in on_ranks.gpus(places(2), tmp_path).found
    four = ("a", "b", "c", "d")
    assert on_ranks.gpus(places(8, per_node=4, gpus=four), tmp_path).status == "ok"
    shared = on_ranks.gpus(places(5, gpus=four), tmp_path)
    assert shared.status == "warning"
    assert shared.found.startswith("ranks 0, 4 on node0 share a")
    some = on_ranks.gpus([*places(1, gpus=four), *places(2)[1:]], tmp_path)
    assert (some.status, some.found) == ("problem", "rank 1 sees no GPU, other ranks do")
    broken = [replace(p, trouble="there is a GPU that torch cannot use") for p in places(2)[1:]]
    found = on_ranks.gpus([*places(1), *broken], tmp_path)
    assert found.status == "problem"
    assert "rank 1 on" in found.found
    assert "that torch cannot use" in found.found


def test_file_systems(tmp_path):
    table = tmp_path / "mounts"
    table.write_text(
        "z /scratch/my\\040own tmpfs rw 0 0\n"
        "x@tcp:/y /scratch lustre rw 0 0\n"
        "/dev/a / ext4 rw 0 0\n"
    )
    assert file_system_of(tmp_path, table) == "ext4"
    assert file_system_of(Path("/scratch/me/run"), table) == "lustre"
    assert file_system_of(Path("/scratchy"), table) == "ext4"
    assert file_system_of(Path("/scratch/my own/x"), table) == "tmpfs"
    assert file_system_of(tmp_path, tmp_path / "none") == "unknown"
    assert locking("ext4", {}).status == "ok"
    assert locking("lustre", {}).mend == "export HDF5_USE_FILE_LOCKING=FALSE"
    assert locking("lustre", {"HDF5_USE_FILE_LOCKING": "FALSE"}).status == "ok"


def test_mpi_io_on_lustre():
    off = {"HDF5_USE_FILE_LOCKING": "FALSE"}
    found = locking("lustre", off, "Open MPI 4")
    assert (found.status, found.mend) == ("warning", "export OMPI_MCA_io=romio321")
    assert locking("lustre", off | {"OMPI_MCA_io": "romio321"}, "Open MPI 4").status == "ok"
    assert locking("lustre", off, "MPICH 4").status == "ok"
    assert locking("gpfs", off, "Open MPI 4").status == "ok"


def test_the_job_and_its_grid():
    two = places(4, per_node=2)
    assert job.allocation(two, {}).found == "none: not started by Slurm or PBS"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_TASKS_PER_NODE": "2(x2)"}
    found = job.allocation(two, slurm)
    assert (found.status, found.found) == ("ok", "Slurm job 7, 4 ranks on 2 of 2 nodes")
    found = job.allocation(places(2), slurm)
    assert (found.status, found.found) == (
        "warning",
        "Slurm job 7, 2 ranks on 1 of 2 nodes: 1 idle",
    )
    found = job.allocation(places(2, per_node=1), slurm)
    assert "4 tasks were requested: 2 are idle" in found.found
    assert job.allocation(two, {"PBS_JOBID": "8.x"}).found == "PBS job 8.x, 4 ranks on 2 of 2 nodes"
    assert job.tasks_per_node({"SLURM_TASKS_PER_NODE": "4(x2),3"}) == [4, 4, 3]
    assert job.grid(two).found.startswith("2 data groups x 2 sample ranks: ")
    assert job.grid(places(1)).found.startswith("1 data group x 1 sample rank: ")
    found = job.grid(two, model=2)
    assert (found.status, found.found.split(":")[0]) == (
        "ok",
        "2 data groups x 1 sample rank x 2 model ranks",
    )
    assert "parallel.model may be 2 here" in job.grid(two).found
    assert "parallel.model may be 2, 3 or 6 here" in job.grid(places(6, per_node=6)).found
    assert "parallel.model" not in job.grid(places(1)).found
    found = job.grid(two, model=4)
    assert (found.status, found.found.split(":")[0]) == (
        "warning",
        "parallel.model = 4 does not divide the 2 ranks of a node",
    )
    assert "parallel.model = 2" in found.mend
    uneven = [*places(2), *(replace(p, rank=2, node=2, host="b") for p in places(1))]
    found = job.grid(uneven)
    assert (found.status, found.found.split(":")[0]) == (
        "warning",
        "ranks per node differ (node0 2, b 1)",
    )


def test_shared_memory():
    small = room(64 * 2**20)
    assert small.status == "warning"
    assert "64 MiB free" in small.found
    assert "--shm-size" in small.mend
    assert room(12 * 2**30).found == "12.0 GiB free, for batches up to 4.0 GiB"


def test_processors(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu amx_bf16 sse\n")
    assert cpu_flags(info) == {"fpu", "amx_bf16", "sse"}
    assert cpu_flags(tmp_path / "none") == set()


def test_missing_and_old_packages(monkeypatch):
    assert packages().status == "ok"
    needs = ["numpy>=99", "no-such-package-here", "torch>=2", 'scipy>=99; extra == "test"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs)
    found = packages()
    assert found.status == "problem"
    assert "no-such-package-here is missing" in found.found
    assert "must be >=99" in found.found
    assert "torch" not in found.found
    assert "scipy" not in found.found


# That it does not hang ----------------------------------------------------------------------------


def test_a_call_is_bounded():
    assert bounded(lambda: 3, 5) == 3
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 5)
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"no answer within 0\.2 s"):
        bounded(lambda: time.sleep(30), 0.2)
    assert time.monotonic() - began < patient(5)


def test_a_call_that_makes_progress_is_not_given_up():
    """On a cold and loaded machine importing torch takes longer than the limit."""
    changing = iter(range(10**6))
    assert bounded(lambda: time.sleep(1.5) or 3, 0.5, lambda: next(changing)) == 3
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"within 0\.2 s, although it made progress until"):
        bounded(lambda: time.sleep(30), 0.2, lambda: next(changing))  # but not for ever
    with pytest.raises(NoAnswerError, match=r"no answer within 0\.2 s$"):
        bounded(lambda: time.sleep(30), 0.2, lambda: "nothing changes")
    assert time.monotonic() - began < patient(20)


COLD = """
import time
from hpcsamp.runtime import mpi
from hpcsamp.doctor import Check, examine

def slow():
    began = time.monotonic()
    while time.monotonic() < began + 4:
        pass
    return Check("torch", "ok", "imports")

def hung():
    time.sleep(60)

checks = [("torch", slow), ("file system", hung)]
for check in examine(mpi().COMM_WORLD, alone=checks, together=(), limit=2).checks:
    print(check.name, check.status, check.found, check.mend, sep="|", flush=True)
import os; os._exit(0)
"""


def test_slow_is_not_stuck_and_a_check_alone_does_not_blame_the_network(script):
    done = script(1, COLD, timeout=100)
    assert done.code == 0, done.err
    slow, stuck = [line.split("|") for line in done.out.splitlines()][:2]
    assert slow[:2] == ["torch", "ok"], done.out
    assert stuck[:2] == ["file system", "problem"]
    assert stuck[2].startswith("no answer within 2 s")
    assert "needs no other rank" in stuck[3]
    assert "network" not in stuck[3]


def test_a_deadlock_is_reported_and_ends_the_job(tmp_path):
    script = tmp_path / "deadlock.py"
    script.write_text(
        textwrap.dedent(
            """
            import time, typer
            import hpcsamp.doctor
            from hpcsamp.cli.doctor import doctor
            from hpcsamp.doctor import Check, examine

            def deadlock(comm):
                if comm.rank == 1:
                    raise ValueError("this rank does not come")
                comm.barrier()
                return Check("deadlock", "ok", "all came")

            later = lambda comm: Check("later", "ok", "")
            hpcsamp.doctor.examine = lambda comm, model, say: examine(
                comm, alone=(), limit=2, say=say,
                together=(("deadlock", deadlock), ("later", later)),
            )
            app = typer.Typer()
            app.command()(doctor)
            app()
            """
        )
    )
    began = time.monotonic()
    done = launch(2, str(script), timeout=100)
    assert done.code == 1, done.err
    lines = done.out.splitlines()
    assert any("deadlock" in li and "rank 0: no answer within 2 s" in li for li in lines), lines
    assert any("later" in li and "skipped" in li for li in lines)
    assert time.monotonic() - began < patient(40)


@pytest.mark.mpi(ranks=2)
def test_a_fault_of_one_rank_is_told_by_all(comm):
    def fault():
        if comm.rank == 1:
            raise ValueError("broken\nhere")
        return Check("part", "ok", "")

    found = examine(comm, alone=(("part", fault),), together=())
    assert found.checks[0].status == "problem"
    assert found.checks[0].found == "rank 1: ValueError: broken here"
    assert not found.healthy
    assert not found.stuck
    assert [p.rank for p in found.places] == [0, 1]


# That it sees -------------------------------------------------------------------------------------


@pytest.mark.mpi(ranks=2)
def test_everything_works_on_two_ranks(comm, monkeypatch, tmp_path):
    from h5py import h5fd

    monkeypatch.chdir(comm.bcast(str(tmp_path)))
    found = examine(comm)
    by_name = {c.name: c for c in found.checks}
    assert list(by_name) == NAMES
    assert found.healthy, found.checks
    assert "2 ranks" in by_name["MPI"].found
    assert "correct" in by_name["MPI allreduce"].found
    hdf5 = by_name["parallel HDF5"]
    if "without MPI" not in hdf5.found:
        assert "all ranks read in this folder, collectively" in hdf5.found
        # It can tell: the same read, not collective.
        monkeypatch.setattr(h5fd, "MPIO_COLLECTIVE", h5fd.MPIO_INDEPENDENT)
        independent = parallel_hdf5(comm)
        assert independent.status == "warning"
        assert "a collective read was done independently" in independent.found
    comm.barrier()
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_alone_from_the_command_line(tmp_path):
    done = launch(1, "-m", "hpcsamp", "doctor", "--json", "found.json", timeout=100, cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    data = json.loads((tmp_path / "found.json").read_text())
    assert data["healthy"] is True
    assert [c["name"] for c in data["checks"]] == NAMES
    assert data["packages"]["torch"]
    assert len(data["ranks"]) == 1
    for name in NAMES:
        assert f"\n{name} " in done.out


@pytest.mark.parametrize(("status", "code"), [("warning", 0), ("problem", 1)])
def test_exit_code(monkeypatch, tmp_path, status, code):
    check = Check("x", status, "a thing", "a mend")
    monkeypatch.setattr("hpcsamp.doctor.examine", lambda comm, model, say: Diagnosis([check]))
    app = Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, ["--json", str(tmp_path / "d.json")])
    assert result.exit_code == code
    assert "fix: a mend" in result.output
    told = json.loads((tmp_path / "d.json").read_text())["checks"]
    assert told == [{"name": "x", "status": status, "found": "a thing", "mend": "a mend"}]
