"""Evaluate a finished (or stopped) run on a split: its metrics, and a file with its items."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import together
from hpcsamp.locks import Lock
from hpcsamp.metrics import auroc, definitions, fpr_at
from hpcsamp.prediction.evaluator import Evaluation
from hpcsamp.prediction.file_attributes import attributes, precision
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import alone, fill
from hpcsamp.run.folder import RunFolder
from hpcsamp.sealing import edits
from hpcsamp.tasks import items

#: If predictions of all values need more bytes than this, only arrays with one number per item
#: are kept.
KEEP_BYTES = 1 << 30
#: Quantiles of series that are kept for plots of forecasts.
FAN = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Number of bins of the histograms of scores.
HISTOGRAM = 40
#: Seconds that an evaluation waits for another one to finish writing its metrics.
PATIENCE = 3.0


def evaluate_run(
    posterior: Posterior,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    ood: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate on a split and write ``evaluation/SPLIT.json`` and ``.h5``. Collective.

    Parameters
    ----------
    data, split
        See :meth:`Posterior.open`. With ``data`` the files are named ``NAME-SPLIT``.
    ood
        Another dataset with inputs of the same shape, whose items are out of distribution: metrics
        then include how well uncertainties distinguish its items from those of the split.

    Returns
    -------
    dict
        Content of the JSON file.

    Raises
    ------
    DataError, UsageError
        If a dataset does not fit, or the files cannot be written; the same on every rank.
    """
    world, root = posterior.topology.world, posterior.topology.is_root
    folder = posterior.restored.folder
    with together(world):
        dataset = posterior.open(data, split)
        outside_set = posterior.open(ood, None, inputs_only=True) if ood is not None else None
        name = dataset.split if data is None else f"{dataset.path.name}-{dataset.split}"
        place = folder.path / "evaluation"
        if root:
            folder.make("evaluation")
    with ExitStack() as stack:
        lock = alone(stack, posterior.topology, place / name)
        found, facts = _evaluate(posterior, dataset, place / f"{name}.h5", lock)
        result = {
            **facts,
            "notes": [
                *posterior.notes_on(dataset),
                *dataset.notes,
                *(outside_set.notes if outside_set is not None else ()),
            ],
            "metrics": found.metrics,
            "units": found.units,
            "definitions": found.definitions,
            "unattained": found.unattained,
            "rows": found.rows,
            **({"series": found.series} if found.series else {}),
            "reliability": found.reliability,
            **({"accepted_edits": edits.taken()} if edits.taken() else {}),
            **({"doubt": found.doubt} if found.doubt else {}),
        }
        if outside_set is not None:
            result["ood"] = _detect_outside(posterior, found, outside_set)
            result["definitions"] |= definitions(found.metrics)
        with together(world):
            if lock is not None:
                lock.check()
                try:
                    folder.write_json(f"evaluation/{name}.json", result)
                    if data is None:
                        _log(folder, dataset.split, step=posterior.restored.step, **found.metrics)
                except OSError as e:
                    raise UsageError(f"cannot write {place}: {e.strerror or e}") from e
    return result


def _evaluate(
    posterior: Posterior, dataset: Dataset, file: Path, lock: Lock | None
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a split into a file; return the results and the facts recorded with them."""
    evaluator = posterior.evaluator(dataset)
    facts = {"dataset": str(dataset.path), "split": dataset.split, **posterior.facts()}
    try:
        options: dict[str, Any] = {
            "dtype": precision(posterior),
            "attributes": attributes(facts, dataset.uid),
        }
        task, view = posterior.task, evaluator.view(posterior.method)
        quantiles = FAN if task.is_series(view) else ()
        described = (task, view, dataset.count)
        plan = items.layout(*described, quantiles=quantiles, **options)
        if plan.bytes > KEEP_BYTES:
            quantiles = ()
            plan = items.layout(*described, values=False, **options)
        found = fill(posterior, evaluator, plan, file, lock, quantiles, overwrite=True, full=True)
    finally:
        evaluator.close()
    return found, facts


def _log(folder: RunFolder, split: str, **values: Any) -> None:
    """Append the metrics to those of the run, unless its training is still writing its own."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with folder.writing():
                folder.log(split, **values)
            return
        except UsageError as e:  # another evaluation writes, which takes a moment
            if time.monotonic() > end:
                sys.stderr.write(f"hpcsamp: this evaluation was not added to metrics.jsonl: {e}\n")
                return
        time.sleep(0.1)


def _detect_outside(
    posterior: Posterior, found: Evaluation, outside_set: Dataset
) -> dict[str, Any]:
    """Add metrics of out-of-distribution detection; return histograms of all scores."""
    evaluator = posterior.evaluator(outside_set)
    try:
        outside, resolution = evaluator.scores(posterior.method)
    finally:
        evaluator.close()
    histograms = {}
    for name in posterior.task.told_apart:
        a, b = found.scores[name], outside[name]
        of, _, score = name.rpartition("/")
        of += "/" * bool(of)
        found.metrics[f"{of}ood_auroc_{score}"] = auroc(a, b, resolution=resolution[name])
        found.metrics[f"{of}ood_fpr95_{score}"] = fpr_at(a, b, resolution=resolution[name])
        finite = np.concatenate([a, b])
        finite = finite[np.isfinite(finite)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        edges = np.linspace(low, high if high > low else low + 1, HISTOGRAM + 1)
        histograms[name] = {
            "edges": edges.tolist(),
            "inside": np.histogram(a, edges)[0].tolist(),
            "outside": np.histogram(b, edges)[0].tolist(),
        }
    return {
        "dataset": str(outside_set.path),
        "split": outside_set.split,
        "items": outside_set.count,
        "scores": histograms,
    }
