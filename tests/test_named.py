"""Networks by name train to the same losses on any grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import launch

CASES = Path(__file__).with_name("named_cases.py")
GRIDS = {"one": (1, "none"), "samples": (2, "2"), "data": (2, "none"), "three": (3, "3")}


def losses(folder: Path, name: str) -> list[float]:
    lines = (folder / name / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [e["loss"] for e in events if e["event"] == "train"]


def test_networks_by_name_are_the_same_on_any_grid(tmp_path):
    for grid, (ranks, span) in GRIDS.items():
        done = launch(ranks, str(CASES), span, str(tmp_path / grid), timeout=200, cwd=CASES.parent)
        assert done.code == 0, done.out[-2000:] + done.err[-2000:]
        # weights are fetched by one rank, and found there by the others
        assert (tmp_path / grid / "fetched" / "log").read_text() == "fetched\n"
    for name in ("mobilenet", "vit", "bert", "lstm", "gru", "temporal", "dropped"):
        truth = losses(tmp_path / "one", name)
        assert len(truth) == 2
        for grid in GRIDS:
            assert losses(tmp_path / grid, name) == pytest.approx(truth, rel=1e-10), (name, grid)
