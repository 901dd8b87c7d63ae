"""Commands that are forked from a server end, fail and are stopped as those that are started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import patient

from hpcsamp import serving
from hpcsamp.campaign import render, submit
from hpcsamp.campaign.points import Campaign
from hpcsamp.cli.campaign_options import look
from hpcsamp.serving import server

# In the place of hpcsamp: what a command is given, and what becomes of it.
COMMAND = """
import json, os, pathlib, signal, sys, time
from hpcsamp.serving import server
def command(arguments):
    if arguments[0] == "look":
        seen = [os.getcwd(), os.environ.get("A"), sys.argv[1:], sys.stdin.read()]
        sys.stdout.write(json.dumps(seen))
        sys.stderr.write("err")
        sys.exit(7)
    if arguments[0] == "place":
        own = os.getpgid(0) == os.getpid()
        sys.stdout.write(json.dumps([[*os.sched_getaffinity(0)], os.nice(0), own]))
        sys.exit()
    if arguments[0] == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
    pathlib.Path(arguments[1]).write_text(str(os.getpid()))
    time.sleep(60)
folder, owner, *told = sys.argv[1:]
arguments = told or server.serve(pathlib.Path(folder), int(owner))
try:
    command(arguments)
except SystemExit as e:
    server.leave(e.code)
"""


class Served:
    """A server whose owner is a process that waits, and commands of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "served"
        self.folder.mkdir()
        self.program = folder / "command.py"
        self.program.write_text(COMMAND)
        self.owner = subprocess.Popen(["sleep", "600"])
        self.process = subprocess.Popen(
            [sys.executable, self.program, self.folder, str(self.owner.pid)]
        )
        wait_for(self.folder / server.READY)

    def start(self, *arguments: str | Path, plain: bool = False, **options) -> subprocess.Popen:
        """A command; ``plain``: with the arguments that it has where the server is of no use."""
        client = Path(serving.__file__).with_name("client.py")
        real = [sys.executable, *([self.program, "-", "-"] if plain else ()), *arguments]
        words = [sys.executable, "-I", "-S", client, self.folder / server.SOCKET, *real]
        return subprocess.Popen(words, **{"stdin": subprocess.DEVNULL, **options})

    def look(self, *arguments: str, env: dict[str, str], **options) -> tuple[list, str, int]:
        """What a command sees, what it writes to standard error, and its exit code."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        there = {**os.environ, **env}
        process = self.start("look", *arguments, env=there, text=True, **pipes, **options)
        out, err = process.communicate("in", patient(30))
        return json.loads(out), err, process.returncode

    def end(self) -> None:
        self.owner.kill()
        self.owner.wait()
        if self.process.wait(patient(10)):  # it was killed
            shutil.rmtree(self.folder)


def wait_for(path: Path) -> str:
    end = time.monotonic() + patient(30)
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.01)
    return path.read_text()


def gone(process: int) -> bool:
    end = time.monotonic() + patient(10)
    while Path(f"/proc/{process}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path)
    yield made
    made.end()
    assert not made.folder.exists()


def test_a_command_has_the_files_folder_environment_and_end_of_its_client(served, tmp_path):
    seen = served.look("a b", cwd=tmp_path, env={"A": "ü\udcff"})
    assert seen == ([str(tmp_path), "ü\udcff", ["look", "a b"], "in"], "err", 7)
    assert served.start("die").wait(patient(30)) == -signal.SIGSEGV
    # several at a time; each gets its own signals, not those of others
    first, second = (served.start("wait", tmp_path / name) for name in ("first", "second"))
    wait_for(tmp_path / "first")
    first.send_signal(signal.SIGUSR2)
    assert first.wait(patient(10)) == 75
    process = int(wait_for(tmp_path / "second"))
    assert second.poll() is None
    second.kill()  # nobody waits for it any longer
    assert gone(process)
    assert second.wait() == -signal.SIGKILL


def test_a_command_has_the_cores_and_the_priority_of_its_client(served):
    core, nice = max(os.sched_getaffinity(0)), os.nice(0) + 3

    def place() -> None:
        os.sched_setaffinity(0, [core])
        os.nice(3)

    process = served.start("place", stdout=subprocess.PIPE, preexec_fn=place)
    assert json.loads(process.communicate(timeout=patient(30))[0]) == [[core], nice, True]
    assert process.returncode == 0


def test_without_a_server_commands_start_by_themselves(served, tmp_path):
    wait = served.start("wait", tmp_path / "process")
    process = int(wait_for(tmp_path / "process"))
    served.process.kill()
    assert wait.wait(patient(10)) == -signal.SIGKILL  # never reported as done
    assert gone(process)
    seen, err, code = served.look(plain=True, env={})
    assert (seen[2], err, code) == (["-", "-", "look"], "err", 7)


def test_another_environment_of_python_is_not_served(served):
    assert served.look(env={})[2] == 7
    seen, _, code = served.look(plain=True, env={"PYTHONHASHSEED": "7"})
    assert (seen[2], code) == (["-", "-", "look"], 7)


def test_a_server_ends_with_its_owner_but_not_before_its_processes(served, tmp_path):
    wait = served.start("wait", tmp_path / "process")
    wait_for(tmp_path / "process")
    served.process.send_signal(signal.SIGTERM)  # it is for the processes
    served.owner.kill()
    served.owner.wait()
    time.sleep(1.5)
    assert served.process.poll() is None
    wait.send_signal(signal.SIGUSR2)
    assert wait.wait(patient(10)) == 75


SERVED = """
import sys
from hpcsamp.serving import server
server.serve = lambda folder, owner: sys.exit(" ".join(sys.modules))
sys.argv = ["hpcsamp", "campaign", "serve", ".", "1"]
from hpcsamp import cli
cli.main()
"""


def test_the_server_of_a_job_has_imported_torch_but_no_mpi():
    """Else each process would import torch, which takes longer than all else of its start."""
    done = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, timeout=patient(60)
    )
    found = set(done.stderr.split())
    assert {"torch", "torch.optim", "hpcsamp.losses", "rich.progress"} <= found, done.stderr
    assert not found & {"mpi4py.MPI", "h5py", "horovod.torch"}


@pytest.mark.parametrize(
    ("resources", "site", "commands", "forked"),
    [
        ("points_per_job = 2", "local", "", True),
        ("points_per_job = 1", "local", "", False),
        ("points_per_job = 2\nranks = 2", "local", "", False),  # mpirun starts them
        ("points_per_job = 2", "slurm", "", False),  # srun does
        ("points_per_job = 2", "local", 'commands = ["launch python3 a.py"]', False),
    ],
)
def test_points_of_one_rank_that_share_a_job_are_forked(
    tmp_path, resources, site, commands, forked
):
    (tmp_path / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
    file = tmp_path / "sweep.toml"
    text = f'config = "base.toml"\n{commands}\n[product]\nseed = [1, 2]\n'
    file.write_text(f'{text}[resources]\n{resources}\n[site]\nname = "{site}"\n')
    made = Campaign(file)
    [job] = render.arrays(made.points, made.site, 0)
    script = render.script(made, job, tmp_path)
    assert ("hpcsamp campaign serve" in script, "mktemp" in script) == (forked, forked)
    path = tmp_path / "job.sh"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


PACK = """
config = "small.toml"
evaluate = ""
[set]
training.epochs = 1
training.evaluate_every = 1
[product]
seed = [1, 2, 3]
[derived]
"optimizer.lr" = "1e12 if seed == 2 else 5e-3"
[resources]
points_per_job = 3
[site]
name = "local"
"""


def test_runs_of_one_job_have_their_own_log_and_failure(small, tmp_path, monkeypatch):
    """They are forked from one server; the one that diverges does not end the job."""
    (tmp_path / "small.toml").write_text(small.read_text())
    file = tmp_path / "sweep.toml"
    file.write_text(PACK)
    real = Path(sys.executable).with_name("hpcsamp")
    noted = tmp_path / "bin" / "hpcsamp"
    noted.parent.mkdir()
    noted.write_text(f'#!/bin/bash\necho "$*" >>{tmp_path}/started\nexec {real} "$@"\n')
    noted.chmod(0o700)
    monkeypatch.setenv("PATH", f"{noted.parent}:{os.environ['PATH']}")
    made = Campaign(file)
    submit.submit(made, submit.NEW)
    folder = made.folder / "submissions" / "0001"
    end = time.monotonic() + patient(90)
    while (words := [s.word for s in look(made).points]) != ["done", "failed", "done"]:
        assert time.monotonic() < end, (words, *(p.read_text() for p in folder.glob("*.txt")))
        time.sleep(0.2)
    logs = [(folder / f"log-00-{i}.txt").read_text() for i in range(3)]
    for point, log, word in zip(made.points, logs, words, strict=True):
        assert f"campaign: start 1 of {point.name} on " in log
        assert ("done: 19 steps" in log, "the loss is not finite" in log) == (
            word == "done",
            word == "failed",
        ), log
    started = (tmp_path / "started").read_text().splitlines()
    assert sum(line.startswith("campaign serve ") for line in started) == 1
    assert not any(line.startswith("train ") for line in started)
