"""Runs on grids with a model axis: trained and evaluated by jobs, compared by tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import hpcsamp as hs
from hpcsamp import config
from hpcsamp.grid import init
from hpcsamp.prediction.evaluate import evaluate_run
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import predict
from hpcsamp.run import checkpoint as saved
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.prepare import prepare
from hpcsamp.run.restore import restore
from hpcsamp.sealing import regions
from hpcsamp.training.loop import train

Grid = tuple[int, int, int]
"""D, P, M."""


def named(grid: Grid) -> str:
    """Name of a grid's folder."""
    return "x".join(map(str, grid))


# By all ranks of a grid -----------------------------------------------------------------------


def run(
    comm: Any, file: Path, grid: Grid, settings: tuple[str, ...], folder: Path, resume: bool = False
) -> None:
    """Train by a configuration, on a grid."""
    own = [f"parallel.samples={grid[1]}", f"parallel.model={grid[2]}", *settings]
    c = prepare(config.load(file, own), "synthetic", comm)
    train(c, init(c.parallel.samples, model=c.parallel.model, comm=comm), folder, resume)


def evaluate(comm: Any, run: Path, grid: Grid, out: Path, ood: bool = False) -> None:
    """Evaluate a run and predict by it, on a grid; files named after the run are left in ``out``.

    ``ood``: whether its own data are looked at as another set, too.
    """
    folder = RunFolder(run)
    c = folder.config([f"parallel.samples={grid[1]}", f"parallel.model={grid[2]}"])
    topology = init(c.parallel.samples, model=c.parallel.model, comm=comm)
    posterior = Posterior(restore(folder, c, topology), topology)
    if topology.is_root:
        out.mkdir(parents=True, exist_ok=True)
    found = evaluate_run(posterior, ood=c.data.path if ood else None)
    predict(posterior, out / f"{run.name}.h5", keep_samples=True)
    if topology.is_root:
        (out / f"{run.name}.json").write_text(json.dumps(found["metrics"]))
        (run / "evaluation" / "test.h5").rename(out / f"{run.name}-items.h5")


# By tests -------------------------------------------------------------------------------------


def check_run(own: Path, truth: Path, tolerance: float = 1e-10) -> None:
    """A run is that of one process: what it logged, and its last checkpoint."""
    found, wanted = events(own), events(truth)
    assert found.keys() == wanted.keys()
    for at, expected in wanted.items():
        for key, value in expected.items():
            if isinstance(value, float) and key != "seconds":
                assert found[at][key] == pytest.approx(value, rel=tolerance, abs=1e-12), (at, key)
    mine, other = checkpoint(own), checkpoint(truth)
    assert mine.keys() == other.keys()
    for key, value in other.items():
        assert mine[key].shape == value.shape, key
        largest = float(value.abs().max()) if value.numel() else 0.0
        assert float((mine[key] - value).abs().max()) <= tolerance * max(largest, 1e-300), key


def check_evaluation(own: Path, truth: Path, name: str) -> dict[str, float]:
    """Metrics and products are those of one process; returns its metrics."""
    found, wanted = (json.loads((of / f"{name}.json").read_text()) for of in (own, truth))
    assert found == pytest.approx(wanted, rel=1e-10, abs=1e-12)
    for file in (f"{name}.h5", f"{name}-items.h5"):
        assert regions.check(own / file)
        check_file(own / file, truth / file)
    return wanted


def check_file(own: Path, truth: Path) -> None:
    """Arrays of a product are those of another one."""
    with h5py.File(own) as a, h5py.File(truth) as b:
        assert a.keys() == b.keys()
        for array, expected in b.items():
            values, wanted = a[array][()], expected[()]
            if wanted.dtype.kind == "f":
                scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-300)
                close = np.abs(values - wanted) <= 1e-10 * scale
                assert (close | (values == wanted) | np.isnan(wanted)).all(), array
                assert (np.isnan(values) == np.isnan(wanted)).all(), array
            else:
                assert np.array_equal(values, wanted), array


def check_digest(run: Path) -> None:
    """The hash of a summary is that of the newest checkpoint's parameters, in one process."""
    method = hs.load(run).method
    method.load_state_dict(saved.read(saved.latest(run / "checkpoints"))["method"])
    found = hashlib.sha256()
    for _, value in sorted(method.named_variational()):
        found.update(value.detach().contiguous().numpy().tobytes())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters_sha256"] == found.hexdigest()


def events(run: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What a run logged, by kind and step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(e["event"], e["step"]): e for e in lines}


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    """Tensors of the states in the newest checkpoint, by name."""
    found = saved.read(saved.latest(run / "checkpoints"))
    return dict(_tensors({k: found[k] for k in ("method", "optimizer", "average") if k in found}))


def _tensors(table: Any, name: str = "") -> Any:
    if isinstance(table, dict):
        for key, value in table.items():
            yield from _tensors(value, f"{name}.{key}")
    elif isinstance(table, torch.Tensor) and table.is_floating_point():
        yield name, table
