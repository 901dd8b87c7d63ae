"""jobscripts/acceptance, on two ranks of this machine: all checks pass, and broken ones fail."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment, servers
from patience import patient
from stubs import ROOT

CHECKS = ["doctor", "invariance", "transports", "feed", "checkpoint", "scaling"]

# Before each command of hpcsamp, whose arguments it may change: smaller reads than on a cluster.
SMALLER = 'case "$*" in "bench feed"*) set -- "$@" --batch 32 --repeat 1 --no-collective ;; esac\n'


@pytest.fixture
def accept(digits, tmp_path):
    """``accept(before)``: its exit code, its output and the table of the checks."""

    def run(before: str = SMALLER, **variables: str) -> tuple[int, list[str], list[list[str]]]:
        first = tmp_path / "bin"
        first.mkdir()
        for name, lines, module in (("hpcsamp", before, "-m hpcsamp"), ("python", "", "")):
            command = first / name
            command.write_text(f'#!/bin/bash\n{lines}exec "{servers().python}" {module} "$@"\n')
            command.chmod(0o700)
        venv = Path(sys.executable).parent
        done = subprocess.run(
            ["bash", ROOT / "jobscripts/acceptance/run.sbatch", tmp_path / "found", digits],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patient(200),
            env={
                **environment(),
                **{"RANKS": "2", "HPCSAMP_SITE": "local", "HPCSAMP_STEPS": "12"},
                # an active environment, so that its own hpcsamp does not come first
                **{"VIRTUAL_ENV": str(venv.parent), "HPCSAMP_VENV": str(venv.parent)},
                **{"PATH": f"{first}:{venv}:{os.environ['PATH']}", "HPCSAMP_ROOT": str(ROOT)},
                **variables,
            },
        )
        table = (tmp_path / "found" / "results.tsv").read_text().splitlines()
        return done.returncode, done.stdout.splitlines(), [line.split("\t") for line in table]

    return run


def test_all_checks_pass(accept, tmp_path):
    code, out, table = accept()
    texts = {check: (tmp_path / "found" / f"{check}.txt").read_text() for check in CHECKS}
    assert [(check, passed) for check, passed, *_ in table] == [(c, "pass") for c in CHECKS], texts
    assert code == 0
    assert "0 checks failed" in out[-1]
    assert texts["checkpoint"].count("allowed 0e+00") == 2  # after USR2, and after KILL
    assert "KILL: exit code 137, expected 137" in texts["checkpoint"]
    with (tmp_path / "found" / "scaling" / "scaling.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [int(r["ranks"]) for r in rows] == [1, 2]
    assert all(float(r["seconds_per_step"]) > 0 for r in rows)
    page = (tmp_path / "found" / "index.html").read_text()
    assert all(f'<h2 id="{check}">' in page for check in CHECKS)


BROKEN = """case "$*" in
*found/torch*) set -- "$@" --set seed=9 ;;
*found/scaling/ranks-2*) set -- train no-such ;;
esac
"""


def test_a_broken_check_is_named_and_counted(accept, tmp_path):
    code, out, table = accept(BROKEN, HPCSAMP_CHECKS="transports scaling", HPCSAMP_STEPS="3")
    assert code == 2, out
    lines = {check: line for check, passed, _, line in table if passed == "fail"}
    assert "largest relative difference of 5 losses" in lines["transports"]
    assert "allowed 1e-10" in lines["transports"]
    assert lines["scaling"].startswith("hpcsamp: error: no configuration no-such")
    for check, line in lines.items():
        assert any(f"{check}: fail after " in told and line in told for told in out), out
    assert "2 checks failed" in out[-1]
    page = (tmp_path / "found" / "index.html").read_text()
    assert page.count('<tr class="fail">') == 2
