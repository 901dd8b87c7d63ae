"""A run with sharded weights equals the run of one process (law 1)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from axis_runs import checkpoint, events
from conftest import launch
from shares_grids import FEW, GRIDS, RESUMED, RUNS

from hpcsamp.weights.layout import Layout, Variable

SCRIPT = Path(__file__).parent / "shares_cases.py"

RUN = """
seed = 3
[data]
path = "{digits}"
batch = 256
[model]
name = "mlp"
hidden = [16]
[method]
name = "mean_field"
samples = 5
samples_per_pass = 1
[loss]
name = "expected_nll"
[optimizer]
lr = 5e-3
sharded = "weights"
[training]
epochs = 2
precision = "float64"
log_every = 1
[parallel]
collectives = "mpi"
[evaluation]
samples = 5
batch = 90
"""


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("shares")
    (root / "run.toml").write_text(RUN.format(digits=digits))
    done = launch(6, str(SCRIPT), str(root), timeout=300)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return root


CASES = [
    ("x".join(map(str, grid)) + f"/{run}", run)
    for run in RUNS
    for grid in (GRIDS if run == "stream" else FEW)[1:]
]
CASES += [(f"resumed/{i}", "clipped") for i in range(len(RESUMED))]


@pytest.mark.parametrize(("own", "run"), CASES)
def test_it_is_the_run_of_one_process(own, run, folder):
    found, wanted = events(folder / own), events(folder / "1x1" / run)
    assert found.keys() == wanted.keys()
    for at, expected in wanted.items():
        for key, value in expected.items():
            if isinstance(value, float) and key != "seconds":
                assert found[at][key] == pytest.approx(value, rel=1e-10, abs=1e-12), (at, key)
    mine, other = checkpoint(folder / own), checkpoint(folder / "1x1" / run)
    assert mine.keys() == other.keys()
    for key, value in other.items():
        assert mine[key].shape == value.shape, key
        largest = float(value.abs().max()) if value.numel() else 0.0
        assert float((mine[key] - value).abs().max()) <= 1e-10 * max(largest, 1e-300), key


def test_a_rank_holds_little_more_than_its_share():
    """At P = 4, at most 6.9 numbers per weight; 2 of them are its share of means, spreads,
    gradients and Adam's moments. That is about half of what a rank holds without shares (12.5).

    Resident memory is measured, of which fragments of the heap are a part that varies from run to
    run and is never negative: the least of three runs counts.
    """

    def peak(mode: str) -> float:
        done = launch(4, str(SCRIPT.with_name("shares_memory.py")), mode, timeout=120)
        assert done.code == 0, done.err
        return float(done.out.split()[-1])

    most, found = min(6.9, 0.55 * peak("false")), []
    while not found or (found[-1] > most and len(found) < 3):
        found.append(peak("weights"))
    assert min(found) <= most, (found, most)


def test_what_cannot_be_in_shares_is_refused(refusals, small, tmp_path):
    start = ["train", small, "--output", tmp_path / "run", "--set=optimizer.sharded=weights"]
    cases = {
        "method.name=flipout": "Flipout",
        "method.name=ensemble": "Ensemble",
        "loss.kl=monte_carlo": "Monte Carlo KL",
        "optimizer.groups=[{pattern='layers.1.*'}]": "optimizer.groups",
        "optimizer.name=Adafactor": "Adafactor",
    }
    found = refusals(2, *([*start, f"--set={setting}"] for setting in cases))
    for done, word in zip(found, cases.values(), strict=True):
        assert done.code == 2, done.err
        assert len(done.errors) == 1, done.err
        assert word in done.errors[0]


def test_a_layer_that_fails_on_one_rank_ends_the_job():
    """Even in the middle of a step, while others wait for its share of the weights."""
    done = launch(2, str(SCRIPT.with_name("shares_failing.py")), timeout=60)
    assert done.code != 0
    assert "this layer has failed" in done.err


def test_bundles_are_all_variables_in_order():
    shapes = {"a": (2,), "b": (3, 4), "c": (1,), "d": (2, 2), "e": (30,)}
    layout = Layout(Variable(n, torch.Size(shape)) for n, shape in shapes.items())
    for size in (1, 3, 5, 14, 100):
        bundles = layout.bundles(size)
        assert [v.name for b in bundles for v in b.variables] == list(shapes)
        stretches = [s for b in bundles for s in b.stretches]
        assert stretches[0][0] == 0
        assert stretches[-1][1] == layout.size
        assert all(a[1] == b[0] for a, b in pairwise(stretches))
        assert all(b - a <= size for a, b in stretches)
