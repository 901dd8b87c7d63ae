"""Files that several processes write: one at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpcsamp.files import locked

COUNTS = """
import sys, time
from pathlib import Path
from hpcsamp.files import locked
folder = Path(sys.argv[1])
for _ in range(50):
    with locked(folder / ".lock", waiting=lambda: None):
        count = int((folder / "count").read_text())
        time.sleep(0.001)
        (folder / "count").write_text(str(count + 1))
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
    with locked(path), pytest.raises(BlockingIOError), locked(path):
        raise AssertionError("two have it")
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    with locked(path):  # it was given back
        assert path.exists()
    assert not path.exists()


def test_a_lock_that_was_left_is_no_lock(tmp_path):
    (tmp_path / ".lock").touch()
    with locked(tmp_path / ".lock"):
        pass
