"""A run is the same on any grid and goes on on another: methods, losses, options (law 1).

All runs of a grid are trained in one job, whose ranks start once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from field_sets import fields
from test_sgld import SETS as SGLD
from test_swag import SETS as SWAG
from test_training import assert_same, losses

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.ingest import build
from hpcsamp.ingest.source import ArraySource

#: Targets as they are; their noise is learnt.
VALUES = ("task=regression", "data.path={values}")
ENSEMBLE = ("method.name=ensemble", "method.prior_std=1.0")
RUNS: dict[str, tuple[str, ...]] = {
    "mean_field": (),
    "views": ("loss.name=predictive_nll", "augment.crop=1"),
    "antithetic": (  # a pair across ranks, one alone
        "method.antithetic=true", "method.samples=5", "parallel.buckets=3",
        "method.prior=empirical_bayes",
    ),
    "flipout": (
        "method.name=flipout", "method.antithetic=true", "augment.crop=1",
        "method.prior=scaled",
    ),
    "local_reparameterisation": (
        "method.name=local_reparameterisation", "loss.name=predictive_nll",
    ),
    "ivon": ("method.name=ivon", "method.bayesian=['layers.1.*']", "optimizer.sharded=true"),
    "ivon_in_shares": (
        "method.name=ivon", "optimizer.sharded=weights", "augment.crop=1",
        "method.prior=empirical_bayes",
    ),
    "last_layer": ("method.name=last_layer", "augment.crop=1"),
    "mc_dropout": (
        "method.name=mc_dropout", "method.rate=0.2", "method.masks=item", "method.prior_std=1.0",
        "loss.name=predictive_nll",
    ),
    "mc_dropout_of_samples": ("method.name=mc_dropout", "method.samples_per_pass=1"),
    "batch_ensemble": (
        "method.name=batch_ensemble", "method.prior_std=1.0", "loss.name=predictive_nll",
        "augment.crop=1",
    ),
    "rank1": ("method.name=rank1", "method.weight_std=1.0", "optimizer.sharded=true"),
    "ensemble": (*ENSEMBLE, "optimizer.clip=1.0"),
    "anchored": (*ENSEMBLE, "method.anchored=true"),
    "sgld": SGLD,
    "svgd": ("method.name=svgd", "optimizer.clip=0.5"),
    "svgd_of_functions": (
        "method.name=svgd", "method.flow=stein", "method.space=function", "augment.crop=1",
        "method.space_inputs=3",
    ),
    "swag": SWAG,
    "sharded": ("optimizer.sharded=true", "optimizer.clip=0.5"),
    "importance_weights": ("loss.name=importance_weighted_elbo", "data.shuffle=pool"),
    "alpha": (
        "loss.name=alpha_divergence", "loss.memory=recompute", "data.reader=memory",
        "parallel.buckets=2",
    ),
    "noise": (*VALUES, "optimizer.sharded=weights"),
    "noise_of_members": (*VALUES, *ENSEMBLE, "loss.name=predictive_nll", "loss.memory=recompute"),
    "rollout": (
        "task=regression", "data.path={fields}", "training.rollout=[[1, 1], [3, 1]]",
        "loss.name=crps",
    ),
    "monte_carlo": ("loss.kl=monte_carlo", "optimizer.name=SGD", "optimizer.momentum=0.9"),
}  # fmt: skip

#: S = 6 on four ranks and S = 5 on three are uneven; batches of data groups are other items. Chunks
#: are 1 in the reference run; here a clock finds them, or they are given.
GRIDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "2": (2, ("parallel.collectives=horovod", "method.samples_per_pass=auto")),
    "3": (3, ("parallel.collectives=torch", "method.samples_per_pass=2")),
    "4": (4, ("parallel.collectives=mpi", "method.samples_per_pass=5", "method.strategy=vmap")),
    "2x2": (4, ("parallel.samples=2", "parallel.collectives=horovod", "method.samples_per_pass=3")),
    "2x1": (2, ("parallel.samples=none", "parallel.collectives=mpi", "method.samples_per_pass=5")),
    "2, torch": (2, ("parallel.collectives=torch", "method.samples_per_pass=3")),
    "2x2, torch": (4, ("parallel.samples=2", "parallel.collectives=torch")),
}
#: Runs on these grids; of the others all.
SOME = dict.fromkeys(("2, torch", "2x2, torch"), ("views", "ensemble", "sharded", "alpha"))
#: Each grid with its runs.
PAIRS = [(grid, name) for grid in GRIDS for name in SOME.get(grid, RUNS)]

Train = Callable[..., Path]


def source() -> ArraySource:
    """As many items as there are digits, with two values each."""
    generator, items = np.random.default_rng(0), {}
    for split, n in {"train": 1257, "valid": 180, "test": 360}.items():
        x = generator.normal(size=(n, 5)).astype("<f4")
        noise = generator.normal(size=(n, 2)) * [40.0, 0.002]
        items[split] = {"x": x, "y": x[:, :2] * [60.0, 0.01] + noise + [150.0, -3.0]}
    return ArraySource(
        name="values",
        task="regression",
        classes=None,
        arrays={"x": ArraySpec.plan((5,), "<f4"), "y": ArraySpec.plan((2,), "<f8")},
        splits={name: len(part["y"]) for name, part in items.items()},
        source={"name": "values"},
        items=items,
    )


@pytest.fixture(scope="module")
def train(commands, small, tmp_path_factory) -> Train:
    """``train(folder, ranks, *settings)``: all runs in one job, those that are there go on.

    A call that was made is not made again: pytest takes the tests of grids in turns, and would set
    each grid up dozens of times.
    """
    root = tmp_path_factory.mktemp("grids")
    sets = {name: root / name for name in ("values", "fields")}
    build(source(), sets["values"])
    build(fields({"train": 1257, "valid": 180, "test": 360}), sets["fields"])

    @cache
    def run(folder: str, ranks: int, *settings: str) -> Path:
        lines = [
            ["train", small, "--output", root / folder / name, "--resume"]
            + [f"--set={s.format(**sets)}" for s in (*RUNS[name], *settings)]
            for name in SOME.get(folder, RUNS)
        ]
        done = commands(ranks, *lines, timeout=240)
        assert done.code == 0, done.err
        return root / folder

    return run


@pytest.fixture(scope="module")
def reference(train) -> Path:
    return train("1", 1)


@pytest.fixture(scope="module")
def other(request, train) -> tuple[str, Path]:
    ranks, settings = GRIDS[request.param]
    return request.param, train(request.param, ranks, *settings)


@pytest.fixture(scope="module")
def stopped(train) -> Path:
    train("stopped", 1, "training.steps=29")  # in the second epoch
    return train("stopped", 1)


@pytest.fixture(scope="module")
def moved(train) -> Path:
    train("moved", 4, "training.steps=29", "parallel.samples=2", "method.samples_per_pass=auto")
    return train("moved", 3, "method.samples_per_pass=2")


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.parametrize(("other", "name"), PAIRS, indirect=["other"], scope="module")
def test_the_grid_does_not_change_what_is_computed(name, other, reference):
    grid, runs = other
    assert len(losses(reference / name)) == 38
    assert_same(runs / name, reference / name)
    found, wanted = summary(runs / name), summary(reference / name)
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-9)
    assert found["world_size"] == GRIDS[grid][0]
    assert f"parallel.collectives={found['collectives']['name']}" in GRIDS[grid][1]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_to_the_same_bits(name, stopped, reference):
    assert losses(stopped / name) == losses(reference / name)
    found, wanted = summary(stopped / name), summary(reference / name)
    assert found["parameters_sha256"] == wanted["parameters_sha256"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_on_another_grid(name, moved, reference):
    assert_same(moved / name, reference / name)


def test_a_run_is_evaluated_on_another_grid(commands, moved, reference, tmp_path):
    lines = [
        ["evaluate", moved / name, "--split", "valid", "--json", tmp_path / f"{name}.json"]
        for name in RUNS
    ]
    done = commands(2, *lines, timeout=120)
    assert done.code == 0, done.err
    for name in RUNS:
        found = json.loads((tmp_path / f"{name}.json").read_text())["metrics"]
        wanted = summary(reference / name)["metrics"]
        for metric in wanted.keys() & {"nll", "accuracy", "brier", "crps", "coverage_90"}:
            assert found[metric] == pytest.approx(wanted[metric], rel=1e-9), (name, metric)
