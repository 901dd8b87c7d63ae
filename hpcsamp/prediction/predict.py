"""Predictions of a run for a dataset, written in parallel to one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.grid import Topology, share, together
from hpcsamp.locks import Lock, locked
from hpcsamp.prediction.evaluator import Evaluation, Evaluator, Sink
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.writer import ParallelFile, check_target
from hpcsamp.sealing import text
from hpcsamp.tasks import items
from hpcsamp.tasks.components import normal_components
from hpcsamp.tasks.layout import Layout

#: Quantiles of values if nobody names any.
QUANTILES = (0.05, 0.5, 0.95)


def predict(
    posterior: Posterior,
    out: Path,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    quantiles: Sequence[float] | None = None,
    keep_samples: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict every item of a split and write one file. Collective over the world.

    Parameters
    ----------
    data, split
        See :meth:`Posterior.open`.
    quantiles
        Levels within 0 and 1; None for :data:`QUANTILES`, where the predictive has them.
    keep_samples
        Also write what every weight sample says.

    Returns
    -------
    dict
        What was predicted, with the metrics (a dataset has targets).

    Raises
    ------
    DataError, UsageError
        If the set does not fit, or the file cannot be written; on every rank, and no file is left.
    """
    world = posterior.topology.world
    with together(world):
        if posterior.topology.is_root:
            check_target(out, overwrite)
        dataset = posterior.open(data, split)
        levels: tuple[float, ...] = ()
        if dataset.classes is None and (quantiles or normal_components(posterior.likelihood)):
            levels = tuple(sorted(set(QUANTILES if quantiles is None else quantiles)))
    with ExitStack() as stack:
        lock = alone(stack, posterior.topology, out)
        evaluator = posterior.evaluator(dataset)
        stack.callback(evaluator.close)
        facts = {"dataset": str(dataset.path), "split": dataset.split, **posterior.facts()}
        plan = items.layout(
            dataset,
            evaluator.coordinates,
            evaluator.units,
            dtype=precision(posterior),
            quantiles=levels,
            samples=posterior.samples if keep_samples else 0,
            attributes=attributes(facts, dataset.uid),
        )
        found = fill(posterior, evaluator, plan, out, lock, levels, overwrite)
    return {
        **facts,
        "file": str(out),
        "items": dataset.count,
        "notes": dataset.notes,
        "metrics": found.metrics,
        "units": found.units,
        "definitions": found.definitions,
    }


def alone(stack: ExitStack, topology: Topology, what: Path) -> Lock | None:
    """Be the only job that writes a file until the stack is closed. Collective over the world.

    Returns
    -------
    Lock or None
        On rank 0: the lock, to be checked before what was written gets its name.

    Raises
    ------
    UsageError
        If another job writes it, or its folder cannot be written to; on all ranks.
    """
    with together(topology.world):
        if not topology.is_root:
            return None
        return stack.enter_context(locked(what.with_name(f".{what.name}.lock"), what))


def fill(
    posterior: Posterior,
    evaluator: Evaluator,
    plan: Layout,
    out: Path,
    lock: Lock | None,
    quantiles: Sequence[float] = (),
    overwrite: bool = False,
    *,
    full: bool = False,
) -> Evaluation:
    """Evaluate a split, every item's predictions going into a file. Collective over the world.

    Parameters
    ----------
    lock
        Of the file, see :func:`alone`.
    """
    file = ParallelFile(out, plan, posterior.topology, overwrite=overwrite, lock=lock)
    try:
        wanted = [name for name, v in plan.variables.items() if v.values is None]
        found = evaluator.run(
            posterior.method,
            full=full,
            sink=_sink(posterior, file),
            wanted=wanted,
            quantiles=quantiles,
        )
        file.finish()
        if found.doubt and posterior.topology.is_root:
            split = evaluator.dataset.split
            sys.stderr.write(f"hpcsamp: warning: {split}: {found.doubt}\n")
    except BaseException:
        file.abandon()
        raise
    return found


def _sink(posterior: Posterior, file: ParallelFile) -> Sink:
    """Each rank of a sample group writes its share of the group's items, and its own samples."""
    topology = posterior.topology
    mine = posterior.method.prediction_share(
        posterior.samples, topology.sample_size, topology.sample_rank
    )

    def write(rows: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        part = share(len(rows), topology.sample_size, topology.sample_rank)
        own = slice(part.start, part.stop)
        with together(topology.world):
            for name, values in arrays.items():
                if name == "samples":
                    file.write(name, rows, values, within=slice(mine.start, mine.stop))
                else:
                    file.write(name, rows[own], values[own])

    return write


def precision(posterior: Posterior) -> str:
    """Type of what is written."""
    return "<f8" if posterior.config.training.precision == "float64" else "<f4"


def attributes(facts: dict[str, Any], uid: str) -> dict[str, Any]:
    """Attributes of a file: numbers and text."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= (
            {f"{name}_{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return {**flat, "dataset_uid": uid, "format": text.FORMAT}
