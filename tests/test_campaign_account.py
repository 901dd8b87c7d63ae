"""What a campaign has used, the next limits, and its best points."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hpcsamp.campaign.account import PointAccount, account, advise
from hpcsamp.campaign.best import best
from hpcsamp.campaign.collect import Results
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.schedulers.usage import Used, of_sacct
from hpcsamp.campaign.status import Place, PointStatus
from hpcsamp.errors import UsageError

# Element 3 was requeued once; MaxRSS and its like are lines of steps.
SACCT = """
41_3|100|00:03:20||1000
41_3.batch|100|00:00:01|2048K|
41_3.0|100|00:03:19|1.50G|1000
41_3|50|00:01:40||500
41_3.0|50|01:40|1G|500
41_4|7|00:00:00||
41_[5-9]|0|00:00:00||
"""


def test_accounting_adds_starts_and_takes_the_largest_step():
    assert of_sacct(SACCT) == {
        ("41", 3): Used(150.0, 300.0, 1536.0, 1500.0),
        ("41", 4): Used(7.0),
    }
    assert of_sacct("1_0|9|1-02:03:04.500|3M|")["1", 0].cpu_seconds == 93784.5


class Surveyed:
    """A survey of one submission that the local scheduler has had."""

    def __init__(self, folder):
        self.folder = folder
        self.state = type("State", (), {"submissions": []})()

    def elements_of(self, point):
        return [Place(("job", 0), self.folder / "submissions/0001/log-00-0.txt", False)]


def point(name: str, shape: Shape | None = None) -> PointStatus:
    return PointStatus(Point(1, name, {}, {}, shape or Shape(2, 1, 4, 1, 10.0), seed=1), "done")


def test_records_of_the_jobs_where_there_is_no_accounting(tmp_path):
    """Two whole starts, and one that has no end but a last output."""
    folder = tmp_path / "points" / "a"
    folder.mkdir(parents=True)
    log = tmp_path / "submissions" / "0001" / "log-00-0.txt"
    log.parent.mkdir(parents=True)
    log.write_text("")
    os.utime(log, (2030, 2030))
    lines = ["1000 running {} 1", "1100 stopped {} 1", "1200 running {} 2", "1500 failed {} 2"]
    lines += ["2000 running {} 3"]
    (folder / ".times").write_text("\n".join(lines).replace("{}", "0001/log-00-0"))
    campaign = type("Campaign", (), {"folder": tmp_path})()
    [one] = account(campaign, Surveyed(tmp_path), [point("a"), point("never")], False)
    assert (one.starts, one.longest, one.used) == (3, 300.0, Used(430.0))
    assert one.core_hours == pytest.approx(8 * 430 / 3600)
    assert one.gpu_hours == pytest.approx(430 / 3600)
    assert (one.of_limit, one.source) == (0.5, "records")


def test_the_next_limits_are_a_quarter_more_than_the_largest_use():
    def used(seconds, memory=None, word="done"):
        status = replace(point("a", Shape(ranks=4, nodes=2)), word=word)
        return PointAccount(status, 1, seconds, Used(seconds, memory=memory), "records")

    [one] = advise([used(100), used(1000, 900.0), used(9000, word="failed")])
    assert (one.time, one.memory, one.points) == ("00:25:00", 2300, 2)  # 20.8 min, 2 x 1125 MiB
    [one] = advise([used(3600)])
    assert (one.time, one.memory) == ("01:15:00", 0)
    assert advise([]) == []


ROWS = [
    {"point": 1, "folder": "a", "valid.nll": 0.5, "test.nll": 0.1, "valid.accuracy": 0.9},
    {"point": 2, "folder": "b", "valid.nll": 0.3, "test.nll": 0.4, "valid.accuracy": 0.7},
    {"point": 3, "folder": "c", "valid.nll": float("nan"), "test.brier": 1, "x.brier": 2},
]


@pytest.mark.parametrize(
    ("metric", "highest", "column", "points"),
    [
        ("nll", None, "valid.nll", [2, 1]),
        ("test.nll", None, "test.nll", [1, 2]),
        ("accuracy", None, "valid.accuracy", [1, 2]),
        ("accuracy", False, "valid.accuracy", [2, 1]),
    ],
)
def test_the_best_points_by_a_metric(metric, highest, column, points):
    name, rows = best(Results(ROWS, {}), metric, highest, count=5)
    assert (name, [row["point"] for row in rows]) == (column, points)
    assert len(best(Results(ROWS, {}), metric, highest)[1]) == 1


@pytest.mark.parametrize(
    ("rows", "metric", "words"),
    [
        (ROWS, "valid.nlll", "did you mean 'valid.nll'"),
        (ROWS, "brier", "write one of test.brier, x.brier"),
        (ROWS[2:], "nll", "no finished point has a numeric value of valid.nll"),
        ([], "nll", "no point is done"),
    ],
)
def test_metrics_that_have_no_best(rows, metric, words):
    with pytest.raises(UsageError, match=words):
        best(Results(rows, {}), metric)
