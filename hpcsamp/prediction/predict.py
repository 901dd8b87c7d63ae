"""Predict a dataset with a run; all ranks write to one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.grid import Topology, share, together
from hpcsamp.locks import Lock, locked
from hpcsamp.prediction.adaptive import AdaptiveIntervals
from hpcsamp.prediction.evaluator import Evaluation, Evaluator, Sink
from hpcsamp.prediction.file_attributes import attributes, levels_of, precision
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.writer import ParallelFile, check_target
from hpcsamp.tasks import items
from hpcsamp.tasks.layout import FileLayout


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
        Levels between 0 and 1; None for 5, 50 and 95 % if quantiles are available.
    keep_samples
        Also write the prediction of each weight sample.

    Returns
    -------
    dict
        Facts of the predictions, and the metrics, because a dataset has targets.

    Raises
    ------
    DataError, UsageError
        If the dataset does not fit, or the file cannot be written; on every rank. The incomplete
        file is removed.
    """
    world = posterior.topology.world
    with together(world):
        if posterior.topology.is_root:
            check_target(out, overwrite)
        dataset = posterior.open(data, split)
        levels = levels_of(posterior, quantiles)
    with ExitStack() as stack:
        lock = alone(stack, posterior.topology, out)
        evaluator = posterior.evaluator(dataset)
        stack.callback(evaluator.close)
        facts = {"dataset": str(dataset.path), "split": dataset.split, **posterior.facts()}
        plan = items.layout(
            posterior.task,
            evaluator.view(posterior.method),
            dataset.count,
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
        "notes": [*posterior.notes_on(dataset), *dataset.notes],
        "metrics": found.metrics,
        "units": found.units,
        "definitions": found.definitions,
    }


def alone(stack: ExitStack, topology: Topology, what: Path) -> Lock | None:
    """Lock a file for this job until the stack is closed. Collective over the world.

    Returns
    -------
    Lock or None
        On rank 0, the lock; check it before the file gets its final name.

    Raises
    ------
    UsageError
        If another job writes the file, or its folder is not writable; on all ranks.
    """
    with together(topology.world):
        if not topology.is_root:
            return None
        return stack.enter_context(locked(what.with_name(f".{what.name}.lock"), what))


def fill(
    posterior: Posterior,
    evaluator: Evaluator,
    plan: FileLayout,
    out: Path,
    lock: Lock | None,
    quantiles: Sequence[float] = (),
    overwrite: bool = False,
    *,
    full: bool = False,
) -> Evaluation:
    """Evaluate a split and write predictions of all items to a file. Collective over the world.

    Parameters
    ----------
    lock
        Lock of the file, see :func:`alone`.
    """
    file = ParallelFile(out, plan, posterior.topology, overwrite=overwrite, lock=lock)
    try:
        wanted = [name for name, v in plan.variables.items() if v.values is None]
        series = AdaptiveIntervals(posterior, evaluator, evaluator.view(posterior.method))
        found = evaluator.run(
            posterior.method,
            full=full,
            sink=series.sink(_sink(posterior, file)),
            wanted=series.wanted(wanted),
            quantiles=quantiles,
        )
        own = share(evaluator.dataset.count, posterior.topology.size, posterior.topology.rank)
        later = series.finish(found)
        with together(posterior.topology.world):
            for name in later.keys() & set(wanted):
                file.write(name, np.arange(own.start, own.stop), later[name][own.start : own.stop])
        file.finish()
        if found.doubt and posterior.topology.is_root:
            split = evaluator.dataset.split
            sys.stderr.write(f"hpcsamp: warning: {split}: {found.doubt}\n")
    except BaseException:
        file.abandon()
        raise
    return found


def _sink(posterior: Posterior, file: ParallelFile) -> Sink:
    """Create a sink with which each rank of a sample group writes its items and its own samples.

    Model ranks hold the same predictions of whole items, so they divide the items once more.
    """
    topology = posterior.topology
    model, ranks = topology.model_rank, topology.model_size
    mine = posterior.places()

    def write(rows: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        place = topology.sample_rank * ranks + model
        own, of_samples = (
            slice(part.start, part.stop)
            for part in (
                share(len(rows), topology.sample_size * ranks, place),
                share(len(rows), ranks, model),
            )
        )
        with together(topology.world):
            for name, values in arrays.items():
                if file.layout.variables[name].dims[1:2] == ("sample",):
                    first = 0
                    for part in mine:
                        own_samples = values[of_samples, first : first + len(part)]
                        within = slice(part.start, part.stop)
                        file.write(name, rows[of_samples], own_samples, within=within)
                        first += len(part)
                else:
                    file.write(name, rows[own], values[own])

    return write
