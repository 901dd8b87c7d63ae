"""Why a point failed: one line from its log, whatever else launchers and schedulers wrote there."""

from __future__ import annotations

import pytest

from hpcsamp.campaign import causes

TRACE = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
  File "a.py", line 7, in f
    raise KeyError("x")
KeyError: 'x'"""
SRUN = "srun: error: n1: task 0: Exited with exit code 1\nsrun: Terminating StepId=7.0"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (f"epoch 1\n{TRACE}\n{SRUN}", "KeyError: 'x'"),
        (f"hpcsamp: error: no such file\n{SRUN}", "no such file"),
        (f"hpcsamp: error: first\nwarned\n{TRACE}", "KeyError: 'x'"),
        (f"[1,0]<stderr>:{TRACE}".replace("\n", "\n[1,0]<stderr>:"), "KeyError: 'x'"),
        (f"3: {TRACE}".replace("\n", "\n3: "), "KeyError: 'x'"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=3.batch.", "out of memory"),
        (
            "slurmstepd: error: *** JOB 3 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT",
            "the time limit ended it",
        ),
        ("=>> PBS: job killed: walltime 3620 exceeded limit 3600", "the time limit ended it"),
        (
            f"{TRACE}\nslurmstepd: error: StepId=3 oom_kill event",
            "out of memory: KeyError: 'x'",
        ),
        (f"epoch 3 of 9\n{SRUN}\n----------", "last output: epoch 3 of 9"),
        ("campaign: stopped early without progress", "stopped early without progress"),
        (SRUN, ""),
        ("", ""),
    ],
)
def test_the_cause_is_found_among_noise(log, cause):
    assert causes.of_lines(log.splitlines()) == cause


def test_only_the_last_start_counts(tmp_path):
    log = tmp_path / "log-00-0.txt"
    log.write_text(
        "campaign: start 1 of abc on n1, then\nhpcsamp: error: of the first\n"
        "campaign: start 2 of abc on n2, then\nepoch 4\n"
    )
    assert causes.of_log(log) == "last output: epoch 4"
    assert causes.of_log(log, "abc", 2) == "last output: epoch 4"
    assert causes.of_log(log, "abc", 1) == "of the first"
    assert (
        causes.of_log(log, "abc", 3) == "start 3 is not in log-00-0.txt: the point was run by hand"
    )
    assert causes.of_log(tmp_path / "none.txt") == ""
    (tmp_path / ".start").write_text("0002/log-00-0 2\n")
    assert causes.last_start(tmp_path) == causes.Start("0002/log-00-0", 2)
    (tmp_path / ".start").write_text("../../etc/passwd 2\n")
    assert causes.last_start(tmp_path) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [("1", "exit 1"), ("137", "exit 137 (SIGKILL)"), ("75", "exit 75 (stopped early)"),
     ("255", "exit 255"), ("", "exit "), ("139", "exit 139 (SIGSEGV)")],
)  # fmt: skip
def test_exit_codes_name_their_signal(code, words):
    assert causes.of_exit(code) == words
