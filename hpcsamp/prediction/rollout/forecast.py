"""Roll out a run from the items of a split; ranks divide members and items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.grid import together
from hpcsamp.prediction.evaluator import Evaluator
from hpcsamp.prediction.file_attributes import attributes, precision
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import alone
from hpcsamp.prediction.rollout.layout import forecast_layout
from hpcsamp.prediction.rollout.march import March
from hpcsamp.prediction.rollout.reading import read_items
from hpcsamp.prediction.rollout.scoring import Scoring
from hpcsamp.prediction.rollout.stores import Store, check_out, open_store
from hpcsamp.run.rollout.clock import clock_of

KEPT = "forecasts"
"""Folder of the scores within the folder of a run."""


def forecast(
    posterior: Posterior,
    out: Path,
    steps: int,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    items: int | None = None,
    perturb: float = 0.0,
    scores: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Roll out ``steps`` steps from items of a split and write all states. Collective.

    Scores are also kept in the folder of the run, as ``forecasts/SPLIT.json`` (with ``data``:
    ``NAME-SPLIT.json``); those of the last forecast remain.

    Parameters
    ----------
    posterior
        Posterior with one sample for each member of the ensemble.
    out
        A ``.zarr`` store or an ``.h5`` file.
    data, split
        See :meth:`Posterior.open`.
    items
        Number of items, from the first; None for all.
    perturb
        See :class:`March`.
    scores
        Whether to compare the forecast with the split, see :class:`Scoring`.

    Returns
    -------
    dict
        Metadata of the forecast, and its scores.

    Raises
    ------
    DataError, UsageError
        If the run cannot be rolled out, forcings do not reach so far, or a file cannot be written;
        on every rank.
    """
    world, folder = posterior.topology.world, posterior.restored.folder
    with together(world):
        check_steps(steps, perturb)
        if posterior.topology.is_root:
            check_out(out, overwrite)
        dataset = posterior.open(data, split)
        count = check_items(items, dataset)
        if scores and posterior.topology.is_root:
            folder.make(KEPT)
    with ExitStack() as stack:
        lock = alone(stack, posterior.topology, out)
        evaluator = posterior.evaluator(dataset)
        stack.callback(evaluator.close)
        march = march_of(posterior, evaluator, perturb)
        with together(world):
            march.check(np.arange(count), steps)
        facts = {
            "dataset": str(dataset.path), "split": dataset.split, **posterior.facts(),
            "members": posterior.samples, "perturb": perturb,
        }  # fmt: skip
        scoring = Scoring(march, dataset, steps) if scores else None
        layout = forecast_layout(
            march.channels, march.clock, march.view.units, count, posterior.samples, steps,
            precision(posterior), attributes(facts, dataset.uid),
        )  # fmt: skip
        store = open_store(out, layout, posterior.topology, overwrite, lock)
        try:
            write_all(march, evaluator, count, steps, store, scoring)
            found = {} if scoring is None else {"scores": scoring.result()}
            store.finish()
        except BaseException:
            store.abandon()
            raise
    done = {"file": str(out), "items": count, "steps": steps, "notes": dataset.notes}
    told = {**facts, **done, **found}
    if scores:
        name = dataset.split if data is None else f"{dataset.path.name}-{dataset.split}"
        with together(world):
            if posterior.topology.is_root:
                kept = {**told, "file": str(out.absolute()), "dataset_uid": dataset.uid}
                try:
                    folder.write_json(f"{KEPT}/{name}.json", kept)
                except OSError as e:
                    raise UsageError(f"cannot write {folder.path}: {e.strerror or e}") from e
    return told


def check_steps(steps: int, perturb: float) -> None:
    """Check the number of steps and the standard deviation of the perturbation.

    Raises
    ------
    UsageError
        If there are no steps, or the perturbation is negative.
    """
    if steps < 1:
        raise UsageError(f"--rollout {steps}: at least 1 step is needed")
    if not perturb >= 0:
        raise UsageError(f"--perturb {perturb:g} must be at least 0")


def check_items(items: int | None, dataset: Dataset) -> int:
    """Return the number of items to roll out.

    Raises
    ------
    UsageError
        If the split has fewer.
    """
    if items is not None and not 1 <= items <= dataset.count:
        raise UsageError(f"--items {items}: {dataset.split} has {dataset.count} items")
    return dataset.count if items is None else items


def march_of(posterior: Posterior, evaluator: Evaluator, perturb: float) -> March:
    """Prepare a rollout from the items of a split. Collective."""
    view, coordinates = evaluator.view(posterior.method), evaluator.coordinates
    with together(posterior.topology.world):
        if "y" not in coordinates:
            raise DataError("--rollout needs a dataset with one target")
        dataset = evaluator.dataset
        clock = clock_of(dataset.manifest, coordinates["y"].per_item)
        return March(posterior, view, clock, partial(inputs_at, posterior, dataset), perturb)


def write_all(
    march: March,
    evaluator: Evaluator,
    count: int,
    steps: int,
    store: Store,
    scoring: Scoring | None = None,
) -> None:
    """Roll out the first ``count`` items of a split into a store, and score it. Collective."""
    topology, members = march.posterior.topology, march.mine
    for x, index, own in batches(evaluator, march.posterior, count):
        states = march.run(x, index, steps)
        for _ in range(steps):
            with together(topology.world):
                lead, state = next(states)
                store.write(index[own], members, lead, as_written(state, own))
            if scoring is not None:
                scoring.update(lead, x, index, own, state)


def as_written(state: Tensor, own: np.ndarray) -> np.ndarray:
    """Return ``(n, s, V, ...)`` for the states ``(s, B, V, ...)`` of the items in ``own``."""
    values: np.ndarray = state.transpose(0, 1).cpu().numpy()[own]
    return values


def batches(
    evaluator: Evaluator, posterior: Posterior, count: int
) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
    """Yield inputs, the positions of their items, and which rows are among the first ``count``.

    Other rows are left out, but at least one is kept: all ranks take part in the exchanges.
    """
    done = 0
    for batch in evaluator.batches(posterior.method):
        if done >= count:
            return
        own = np.flatnonzero(batch.true & (batch.index < count))
        rows = own if len(own) else np.zeros(1, int)
        yield batch.x[torch.from_numpy(rows)], batch.index[rows], np.arange(len(own))
        done += evaluator.loader.order.batch


def inputs_at(posterior: Posterior, dataset: Dataset, items: np.ndarray) -> Tensor:
    """Read standardised inputs; padding rows, whose item is -1, get those of the first item."""
    x: Tensor = read_items(posterior, dataset, np.maximum(items, 0)).x
    return x
