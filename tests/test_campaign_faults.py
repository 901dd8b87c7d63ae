"""What campaigns must not do: start twice, lose sight of points, restart in vain, believe files."""

from __future__ import annotations

import csv
import json
import os
import time

import pytest
from patience import patient
from test_campaign_run import FAKE, SWEEP, Case, runs

from hpcsamp.campaign import submit, unplanned
from hpcsamp.campaign.points import Campaign

SMALL = SWEEP.replace("seed = [1, 2, 3, 4]", "seed = [1]").replace("[1, 2, 3]", "[1, 2]")


@pytest.fixture
def case(tmp_path):
    made = Case(tmp_path, SMALL)
    yield made
    if made.folder.exists():
        submit.cancel(Campaign(made.file, "local"))


def words(case: Case) -> list[str]:
    return [s.word for s in case.survey().points]


VAIN = """
starts = len((folder / "started").read_text())
reached = folder / "checkpoints"
reached.mkdir(exist_ok=True)
(reached / f"step-{starts if given['data.batch'] == '32' else 1}").touch()
starts > 9 or sys.exit(75)
"""


def test_a_point_is_not_restarted_in_vain(case):
    """Those of batch 64 reach no new checkpoint in their second start; the others stop at 4."""
    case.file.with_name("fake.py").write_text(FAKE.replace("digest =", f"{VAIN}digest =", 1))
    case.file.write_text(f"retries = 3\n{SMALL}")
    case("submit")
    assert case.wait() == {"failed": 4}
    found = {}
    for status in case.survey().points:
        folder = case.folder / "points" / status.point.name
        found.setdefault(status.point.values["data.batch"], set()).add(
            len((folder / "started").read_text())
        )
    assert found == {32: {4}, 64: {2}}
    out = " ".join(case("status").split())
    assert "exit 75 (stopped early): stopped early in start 4: not started again (retries" in out
    assert "stopped early without progress since start 2: not started again" in out


def test_the_cause_is_that_of_the_last_start(case):
    """The first start raised, the second was killed."""
    body = """
if not (folder / "first").exists():
    (folder / "first").touch()
    raise ValueError("of the first start")
if given["data.batch"] == "32":
    os.kill(os.getpid(), 9)
print("epoch 1")
raise KeyError("of the second")
"""
    case.file.with_name("fake.py").write_text(FAKE.replace("digest =", f"{body}digest =", 1))
    case.file.write_text(SMALL.replace("[1, 2]", "[1]"))
    case("submit")
    assert case.wait() == {"failed": 2}
    assert "ValueError: of the first start" in case("status")
    case("resume")
    assert case.wait() == {"failed": 2}
    survey = case.survey()
    reasons = [survey.reasons([s])[s.point.name] for s in survey.points]
    assert reasons[0].startswith("exit 137 (SIGKILL)")
    assert "first" not in reasons[0]
    assert reasons[1] == "exit 1: KeyError: 'of the second'"
    log = case("logs", "2")
    assert "KeyError: 'of the second'" in log
    assert "of the first" not in log


def test_products_rewritten_by_hand_are_not_done(case):
    """Whole and valid, with the old times and the old size, but not what the job checked."""
    case("submit")
    assert case.wait() == {"done": 4}
    path = case.folder / "points" / case.survey().points[0].point.name / "summary.json"
    before, times = path.read_text(), path.stat()
    content = json.loads(before)
    digest = content["parameters_sha256"]
    forged = before.replace(digest, digest[::-1])
    assert len(forged) == len(before) != 0
    path.write_text(forged)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert words(case) == ["failed", "done", "done", "done"]
    assert "summary.json changed since the point ended" in " ".join(case("status").split())
    assert "3 rows of 4 points" in case("collect")
    path.write_text(before)  # the same content at another time
    assert words(case) == ["done"] * 4


def test_the_table_has_all_values(case):
    more = '"metrics": {"accuracy": 0.5}, "energy": {"kwh": 1.5, "by": ["a", 2]}, "note": "x", '
    fake = FAKE.replace('summary = {"steps": 3,', f'summary = {{"steps": 3, {more}', 1)
    fake = fake.replace('"metrics": {"accuracy": int(digest[:4], 16) / 65536}', '"seed": 7')
    own = '(folder / "own.json").write_text(json.dumps({"metrics": {"f1": 1}, "by": {"x": 2}}))\n'
    case.file.with_name("fake.py").write_text(fake + own)
    case.file.write_text(f'results = ["summary.json", "own.json"]\n{SMALL}')
    case("submit")
    assert case.wait() == {"done": 4}
    out = case("collect", "--where", "method.samples == 2 and data.batch == 32")
    assert "1 rows of 1 points" in out
    [row] = csv.DictReader((case.folder / "results.csv").read_text().splitlines())
    assert row["seed"] == "1"  # the axis
    assert row["summary.seed"] == "7"
    assert row["valid.accuracy"] == "0.5"
    assert row["summary.energy.kwh"] == "1.5"
    assert json.loads(row["summary.energy.by"]) == ["a", 2]
    assert (row["summary.note"], row["own.f1"], row["own.by.x"]) == ("x", "1", "2")


def test_one_at_a_time_over_two_submissions(case):
    """The second runner starts nothing while a point of the first runs."""
    text = SMALL.replace("cores = 3", "cores = 3\nat_once = 1").replace("seed = [1]", "seed = [2]")
    case.file.write_text(text)
    case.go(False)
    case("submit", "--point", "1")
    case("submit")
    end = time.monotonic() + patient(60)
    while runs(case) == 0:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)
    assert sorted(words(case)) == ["queued", "queued", "queued", "running"]
    assert runs(case) == 1
    # single points are cancelled, waiting and running ones
    assert "cancelled point 1, point 4" in case("cancel", "--point", "1,4")
    assert words(case)[0] == "interrupted"
    assert words(case)[3] == "missing"
    assert "1 of 4 points: 1 missing" in case("status", "--state", "missing")
    case.go()
    counts = case.wait()
    assert counts == {"done": 2, "interrupted": 1, "missing": 1}
    assert "submitted 1 point " in case("resume", "--state", "interrupted")
    assert case.wait() == {"done": 3, "missing": 1}


def test_points_that_are_no_longer_planned_stay_in_sight(case):
    case("submit")
    assert case.wait() == {"done": 4}
    case("status", "--exit-code")
    case.file.write_text(SMALL.replace('"data.batch" = [32, 64]', '"data.batch" = [32, 128]'))
    out = case("status")
    assert "2 points on disk are not planned any more" in out
    assert out.count("data.batch was 64, is 32") == 2
    assert "2 missing" in out
    lost = unplanned.names(Campaign(case.file))
    assert "data.batch" in case("diff", "1", lost[0])
    assert "1 key differs" in case("diff", "1", "2")
    # renamed: the points are found where they were, and adopted
    renamed = case.file.with_name("other.toml")
    renamed.write_text(case.file.read_text())
    other = Case.__new__(Case)
    other.__dict__ |= {**case.__dict__, "file": renamed}
    assert "2 missing points in" in other("status")
    old = case.folder
    assert "moved 2 points" in other("adopt", old)
    assert "2 done" in other("status")
    assert "is neither the folder of a campaign" in other("adopt", case.file.parent, code=2)
    # and what nobody plans is removed, if told
    assert "2 points not planned; --yes removes them" in case("prune")
    assert set(lost) <= {p.name for p in (old / "points").iterdir()}
    assert "removed 2 points" in case("prune", "--yes")
    assert list((old / "points").iterdir()) == list((old / "marks").iterdir()) == []
