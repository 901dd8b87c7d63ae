"""``--profile``: traces of the ranks, the phases in them, and the rank that the others wait for."""

from __future__ import annotations

import gzip
import json
import statistics
from typing import get_args

from hpcsamp.training.phases import NAMES
from hpcsamp.training.timeline import STEPS, straggler, table
from hpcsamp.watchdog import Part, here

SLOW = """
import os, time
from torch import nn

class Net(nn.Module):
    def __init__(self, in_shape, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))

    def forward(self, x):
        if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
            time.sleep(0.02)
        return self.layers(x)
"""


def ranges(path) -> dict[str, list[dict]]:
    """Ranges of a Chrome trace that were named by the program, by name."""
    found: dict[str, list[dict]] = {}
    with gzip.open(path) as file:
        for event in json.load(file)["traceEvents"]:
            if event.get("cat") == "user_annotation" and event["ph"] == "X":
                found.setdefault(event["name"], []).append(event)
    return found


def own_seconds(found: dict[str, list[dict]], name: str, step: dict) -> float:
    """Seconds of the ranges of a name in a step, without ranges of other names within them."""
    phases = [event for part in get_args(Part) for event in found.get(part, ())]
    spans = [(e["ts"], e["ts"] + e["dur"], e["name"]) for e in phases]
    total = 0.0
    for first, last, whose in spans:
        if whose != name or not step["ts"] <= first <= step["ts"] + step["dur"]:
            continue
        inner = [s for s in spans if first <= s[0] and s[1] <= last and s != (first, last, whose)]
        total += last - first
        for s in inner:  # one that is within another of them is in that one's time
            if not any(o != s and o[0] <= s[0] and s[1] <= o[1] for o in inner):
                total -= s[1] - s[0]
    return total / 1e6


def test_a_slow_rank_is_found_in_the_timelines_of_two(hpcsamp, small, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    settings = ("model={name='slow:Net'}", "training.steps=9", "method.strategy=loop")
    done = hpcsamp(
        2, "train", small, "--output", "run", "--profile", *(f"--set={s}" for s in settings),
        cwd=tmp_path, timeout=90,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "rank 1 is the straggler" in done.out
    assert "most of the difference is in forward" in done.out
    folder = tmp_path / "run" / "profile"
    rows = {row["phase"]: row for row in json.loads((folder / "phases.json").read_text())}
    assert rows.keys() == {*NAMES, "work", "waiting"}
    for name in ("forward", "work"):
        assert rows[name]["rank"] == 1
    assert rows["waiting"]["rank"] == 0
    assert rows["forward"]["max"] > 3 * 0.02  # S = 6 on two ranks, one after the other
    seconds = {}
    for rank in (0, 1):
        found = ranges(folder / f"rank-{rank}.json.gz")
        steps = [name for name in found if name.startswith("step ")]
        assert sorted(steps) == [f"step {n + 1}" for n in range(STEPS)]
        for name in ("draw", "forward", "backward", "agreement", "exchange", "optimiser"):
            inside = [
                any(
                    step["ts"] <= event["ts"] <= step["ts"] + step["dur"]
                    for event in found[name]
                    for step in found[f"step {n + 1}"]
                )
                for n in range(STEPS)
            ]
            assert all(inside), (rank, name)
        each = [own_seconds(found, "forward", found[f"step {n + 1}"][0]) for n in range(STEPS)]
        seconds[rank] = statistics.median(each)
    # the table was timed within the ranges, so it cannot exceed them, and misses little of them
    assert 0.8 * seconds[1] < rows["forward"]["max"] <= seconds[1] * 1.001
    assert seconds[0] < 0.5 * seconds[1]


def test_bench_step_writes_timelines(hpcsamp, tmp_path):
    done = hpcsamp(
        2, "bench", "step", "--model=mlp", "--samples=2", "--batch=4", "--repeat=1",
        "--no-baseline", "--no-memory", "--profile", tmp_path / "profile", timeout=90,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "medians of 5 steps" in done.out
    for rank in (0, 1):
        assert {"forward", "backward", "exchange", "optimiser", "step 5"} <= ranges(
            tmp_path / "profile" / f"rank-{rank}.json.gz"
        ).keys()


def test_the_table_of_phases():
    fast = {name: [0.0, 0.0, 9.0] for name in NAMES}  # one step was disturbed
    slow = {**fast, "backward": [0.5, 0.4, 0.6]}
    fast = {**fast, "exchange": [0.4, 0.5, 0.6], "backward": [0.1, 0.1, 0.1]}
    rows = table([fast, slow, fast])
    by = {row["phase"]: row for row in rows}
    assert by["backward"] == {"phase": "backward", "median": 0.1, "max": 0.5, "rank": 1}
    assert by["work"]["rank"] == 1
    assert by["waiting"] == {"phase": "waiting", "median": 0.5, "max": 0.5, "rank": 0}
    told = straggler(rows, 3)
    assert told.startswith(
        "rank 1 is the straggler: it works 0.5 s per step, the median of 3 ranks"
    )
    assert told.endswith("in backward")
    assert straggler(table([fast, fast]), 2) == ""
    assert straggler(table([slow]), 1) == ""
    assert table([{name: [] for name in NAMES}]) == []


def test_without_it_nothing_listens():
    first, second = (here.part(name) for name in get_args(Part)[:2])
    assert first is second  # one object that does nothing
