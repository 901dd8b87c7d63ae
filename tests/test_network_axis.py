"""ViT, SWIN and a user's own network, split over model ranks, train like the whole network."""

from __future__ import annotations

from pathlib import Path

import pytest
from axis_runs import check_evaluation, check_run, events, named
from conftest import launch
from network_axis_grids import (
    BASES,
    EVALUATED,
    EVALUATIONS,
    RUNS,
    RUNS_RESUMED,
    grids_of,
    text,
)  # fmt: skip

SCRIPT = Path(__file__).parent / "network_axis_cases.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("network_axis")
    for base, of in BASES.items():
        (root / f"{base}.toml").write_text(text(base, str(root / of["task"])))
    done = launch(4, str(SCRIPT), str(root), timeout=200)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return root


CASES = [(named(grid), run) for run in RUNS for grid in grids_of(run)[1:]]
CASES += [("resumed", run) for run in RUNS_RESUMED]


@pytest.mark.parametrize(("grid", "run"), CASES)
def test_it_is_the_run_of_one_process(grid, run, folder):
    assert ("train", 4) in events(folder / "1x1x1" / run)
    check_run(folder / grid / run, folder / "1x1x1" / run)


@pytest.mark.parametrize("run", EVALUATED)
@pytest.mark.parametrize("grid", [named(grid) for grid in EVALUATIONS[1:]])
def test_evaluations_and_predictions_are_those_of_one_process(grid, run, folder):
    of = folder / "evaluated"
    assert "nll" in check_evaluation(of / grid, of / "1x1x1", run)
