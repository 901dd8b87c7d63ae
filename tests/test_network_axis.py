"""ViT, SWIN and a user's own network, split over model ranks, train like the whole network."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import launch
from network_axis_grids import BASES, RUNS, RUNS_RESUMED, grids_of, text
from test_model_axis import checkpoint, events

SCRIPT = Path(__file__).parent / "network_axis_cases.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("network_axis")
    for base, of in BASES.items():
        (root / f"{base}.toml").write_text(text(base, str(root / of["task"])))
    done = launch(4, str(SCRIPT), str(root), timeout=200)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return root


CASES = [("x".join(map(str, grid)), run) for run in RUNS for grid in grids_of(run)[1:]]
CASES += [("resumed", run) for run in RUNS_RESUMED]


@pytest.mark.parametrize(("grid", "run"), CASES)
def test_it_is_the_run_of_one_process(grid, run, folder):
    own, truth = folder / grid / run, folder / "1x1x1" / run
    found, wanted = events(own), events(truth)
    assert found.keys() == wanted.keys()
    assert ("train", 4) in wanted
    for at, expected in wanted.items():
        for key, value in expected.items():
            if isinstance(value, float) and key != "seconds":
                assert found[at][key] == pytest.approx(value, rel=1e-10, abs=1e-12), (at, key)
    mine, other = checkpoint(own), checkpoint(truth)
    assert mine.keys() == other.keys()
    for key, value in other.items():
        assert mine[key].shape == value.shape, key
        largest = float(value.abs().max()) if value.numel() else 0.0
        assert float((mine[key] - value).abs().max()) <= 1e-10 * max(largest, 1e-300), key
