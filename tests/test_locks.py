"""One process at a time writes something, whatever became of the one before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from patience import patient

from hpcsamp import locks
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.locks import Holder, locked

COUNTS = """
import sys, time
from pathlib import Path
from hpcsamp.locks import locked
folder = Path(sys.argv[1])
for _ in range(50):
    with locked(folder / ".lock", "the count", waiting=lambda: None):
        count = int((folder / "count").read_text())
        time.sleep(0.001)
        (folder / "count").write_text(str(count + 1))
"""
HOLDS = """
import sys
from pathlib import Path
from hpcsamp import locks
locks.BEAT = 0.1
with locks.locked(Path(sys.argv[1]), "the thing") as lock:
    print("held", flush=True)
    for line in sys.stdin:
        lock.check()
        print("written", flush=True)
"""


def test_one_process_at_a_time(tmp_path):
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNTS, str(tmp_path)]
    counting = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in counting] == [0] * 4
    assert (tmp_path / "count").read_text() == "200"
    assert [p.name for p in tmp_path.iterdir()] == ["count"]


def test_who_does_not_wait_is_told(tmp_path):
    path = tmp_path / ".lock"
    with (
        locked(path, "x"),
        pytest.raises(UsageError, match=rf"^x is being .* {os.getpid()} on \S+ since 20\d\d-"),
        locked(path, "x"),
    ):
        raise AssertionError("two have it")
    with pytest.raises(KeyError), locked(path, "x"):
        raise KeyError
    with locked(path, "x"):  # it was given back
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="cannot be written to"), locked(path / "x", "x"):
        pass


def left(path: Path, **changes: object) -> Holder:
    """A lock that somebody has left behind."""
    holder = replace(Holder(), token="other", **changes)
    path.write_text(json.dumps(asdict(holder)))
    return holder


def takes(path: Path) -> float:
    """Seconds that it takes to get a lock."""
    began = time.monotonic()
    with locked(path, "x") as lock:
        lock.check()
        assert json.loads(path.read_text())["pid"] == os.getpid()
        found = time.monotonic() - began
    assert not list(path.parent.iterdir())
    return found


def test_a_holder_that_has_ended_here_is_replaced_at_once(tmp_path):
    path = tmp_path / ".lock"
    gone = subprocess.Popen(["true"])
    gone.wait()
    left(path, pid=gone.pid)
    assert takes(path) < locks.BEAT
    left(path, started="1")  # its pid is now another process's
    assert takes(path) < locks.BEAT


def test_a_job_that_was_started_again_takes_over(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    left(path, machine="other", restart="0")
    assert takes(path) < locks.BEAT
    monkeypatch.setattr(locks, "LEASE", 1.0)
    left(path, machine="other")  # another step of the very same start: it may run
    assert takes(path) > 0.9
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("PBS_JOBID", "88.pbs")
    left(path, machine="other")
    assert takes(path) < locks.BEAT


def test_on_another_machine_a_holder_that_lives_is_told_from_a_dead_one(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    monkeypatch.setattr(locks, "LEASE", 2.0)
    left(path, machine="other", host="far", job="9")
    assert 1.9 < takes(path) < 30
    left(path, machine="other", host="far", job="9")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.2):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UsageError, match=r"process \d+ on far of job 9 since"):
            takes(path)
    finally:
        ended.set()
        thread.join()


def test_the_clocks_of_machines_do_not_matter(tmp_path, monkeypatch):
    """This machine's is a day ahead of the file server's, then behind."""
    path = tmp_path / ".lock"
    for ahead in (86400.0, -86400.0):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: 1.7e9 + ahead)
        monkeypatch.setattr(locks, "_now", lambda ahead=ahead: time.monotonic() + ahead)
        monkeypatch.setattr(locks, "LEASE", 1.0)
        left(path, machine="other")
        assert 0.9 < takes(path) < 30


@pytest.mark.parametrize("text", ["", "{}", '{"pid": "1"}', "[]", "\0"])
def test_a_lock_that_nobody_can_read_expires(tmp_path, monkeypatch, text):
    monkeypatch.setattr(locks, "LEASE", 0.5)
    (tmp_path / ".lock").write_text(text)
    assert takes(tmp_path / ".lock") > 0.4


def test_a_suspended_holder_notices_that_it_was_replaced(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"process {holder.pid} on"):
        takes(path)
    os.kill(holder.pid, signal.SIGSTOP)
    monkeypatch.setattr(locks, "LEASE", 1.5)
    with locked(path, "x", waiting=lambda: None) as lock:
        os.kill(holder.pid, signal.SIGCONT)
        out, err = holder.communicate("write\n", timeout=patient(60))
        assert out == ""
        last = err.splitlines()[-1]
        assert "this process no longer holds the lock of the thing: process" in last
        lock.check()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_somebody_removed_is_noticed(tmp_path, monkeypatch):
    with locked(tmp_path / ".lock", "x") as lock:
        lock.check()
        (tmp_path / ".lock").unlink()
        lock._seen -= 2
        with pytest.raises(HpcsampError, match=r"\.lock was removed"):
            lock.check()
