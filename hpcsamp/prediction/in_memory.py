"""Predict items in memory: the arrays that a predictions file would contain."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcsamp.collectives import Collectives
from hpcsamp.data import Batch, Dataset
from hpcsamp.data.batch import Converter
from hpcsamp.data.order import GlobalBatch
from hpcsamp.errors import DataError
from hpcsamp.prediction.adaptive import AdaptiveIntervals
from hpcsamp.prediction.file_attributes import precision
from hpcsamp.prediction.given import Given
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.tasks import View, items, views
from hpcsamp.tasks.coordinates import Coordinates
from hpcsamp.tasks.layout import FileLayout

if TYPE_CHECKING:
    from hpcsamp.prediction.evaluator import Evaluation

TARGETS = ("target", "error", "log_density")
"""Variables of a file that need targets."""
NOT_EXPORTED = (*TARGETS, "samples", "quantiles")
"""Variables of a file that an exported module does not return."""
ROOM = 128 << 20
"""Largest number of bytes of the outputs of all samples of batches evaluated together."""
CACHE = 1 << 20
"""Bytes of outputs, in float64, that are summarised at once: intermediate results then stay in the
caches and reuse memory that was just freed, instead of new pages that the kernel must clear."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of some items.

    Attributes
    ----------
    layout
        Layout of the arrays.
    values
        Arrays by the names of the variables in the layout.
    evaluation
        Metrics of a split; None for items without targets.
    """

    layout: FileLayout
    values: Mapping[str, np.ndarray]
    evaluation: Evaluation | None = None


def predict_items(
    posterior: Posterior,
    given: Given,
    *,
    batch: int | None = None,
    quantiles: Sequence[float] = (),
    keep_samples: bool = False,
    series: np.ndarray | None = None,
) -> Predicted:
    """Predict raw items. Serial.

    Parameters
    ----------
    given
        Items to predict.
    batch
        Number of items evaluated at once; None for ``evaluation.batch``.
    quantiles
        Levels of the quantiles, for numeric targets.
    keep_samples
        Also keep the prediction of each weight sample.
    series
        ``(n,)`` index of the series of each item, if each series has a scale of its own.
    """
    dataset = posterior.trained.items(given.count)
    samples, task = posterior.samples, posterior.task
    view = view_of(posterior, dataset, posterior.collectives, series)
    layout = items.layout(
        task, view, given.count,
        dtype=precision(posterior),
        quantiles=quantiles,
        samples=posterior.samples if keep_samples else 0,
    )  # fmt: skip
    for what in TARGETS:
        for name in view.names(what):
            layout.variables.pop(name, None)
    values = {n: np.empty(layout.shape(n), v.dtype) for n, v in layout.variables.items()}
    size = min(batch or posterior.config.evaluation.batch, given.count)
    levels = tuple(quantiles)
    batches = batches_of_given(posterior, dataset, given, size)
    targets = posterior.run.shapes.targets
    classes = max(of.classes or 2 for of in (*targets.parts.values(), targets))
    each = posterior.run.shapes.target_values * classes
    count = max(1, ROOM // (samples * each * 8 * size))
    for number in itertools.count():
        parts = list(itertools.islice(batches, count))
        if not parts:
            break
        places = [torch.from_numpy(p.index).to(p.device) for p in parts]
        if number == 0:
            with _ids_that_fit(posterior, given):
                posterior.estimate(parts[0].x)
        if number == 0 and posterior.passed.enough(-(-given.count // size) * samples):
            posterior.settle(parts[0].x, places[0])
        inputs = [(p.x, index) for p, index in zip(parts, places, strict=True)]
        with _ids_that_fit(posterior, given):
            outputs = posterior.outputs(inputs)
        rows = np.concatenate([p.index for p in parts])
        step = max(1, CACHE // (samples * each * 8))
        for start in range(0, len(rows), step):
            own = outputs[:, start : start + step]
            mine = view.of_items(rows[start : start + step])
            found = task.predict(own, view.blank(own), mine, levels=levels)
            for name, array in found.arrays(list(layout.variables)).items():
                values[name][rows[start : start + step]] = array
    return Predicted(layout, values)


@contextmanager
def _ids_that_fit(posterior: Posterior, given: Given) -> Iterator[None]:
    """Report the range of the items' ids if the network fails to look one of them up.

    Raises
    ------
    DataError
        If it fails; the message contains the range of the ids.
    """
    try:
        yield
    except IndexError as e:
        ids = [n for n, kind in posterior.trained.manifest.kinds.items() if kind == "ids"]
        if not ids:
            raise
        ranges = ", ".join(
            f"ids of {n} are from {given.arrays[n].min()} to {given.arrays[n].max()}" for n in ids
        )
        raise DataError(f"the network does not accept these items ({e}): {ranges}") from e


def view_of(
    posterior: Posterior, dataset: Dataset, group: Collectives, series: np.ndarray | None = None
) -> View:
    """Describe the quantities that are predicted for items without targets, and their units."""
    known = {} if series is None else {"series": (series.astype(np.float64), "")}
    axes = posterior.trained.axes
    coordinates = {name: Coordinates(axes[name], known) for name in dataset.targets}
    return views.view_of(
        posterior.method, posterior.run.shapes.targets, posterior.likelihood, dataset, coordinates,
        posterior.samples, posterior.counts(), group,
    )  # fmt: skip


def batches_of_given(
    posterior: Posterior, dataset: Dataset, given: Given, size: int
) -> Iterator[Batch]:
    """Yield batches of at most ``size`` items that were passed in Python, standardised. Serial."""
    device, dtype = posterior.topology.device, posterior.run.dtype
    convert = Converter(dataset, device, dtype, normalize=True)
    targets = {name: dataset.manifest.arrays[name] for name in dataset.targets}
    for start in range(0, given.count, size):
        own = np.arange(start, min(start + size, given.count), dtype=np.int64)
        raw = {name: values[own] for name, values in given.arrays.items()}
        raw |= {n: np.zeros((len(own), *spec.shape), spec.dtype) for n, spec in targets.items()}
        yield convert(GlobalBatch(own, np.ones(len(own))), len(own), raw)


def batches_of(posterior: Posterior, dataset: Dataset) -> Iterator[Batch]:
    """Yield batches of the items of a split with their targets, in order. Serial."""
    device, dtype = posterior.topology.device, posterior.run.dtype
    convert = Converter(dataset, device, dtype, normalize=True)
    size = posterior.config.evaluation.batch
    for start in range(0, dataset.count, size):
        own = np.arange(start, min(start + size, dataset.count), dtype=np.int64)
        raw: dict[str, np.ndarray] = {}
        for values, only in zip(dataset.read(own), ("x", "y"), strict=True):
            raw |= values if isinstance(values, dict) else {only: values}
        yield convert(GlobalBatch(own, np.ones(len(own))), len(own), raw)


def predict_split(
    posterior: Posterior,
    dataset: Dataset,
    *,
    quantiles: Sequence[float] = (),
    keep_samples: bool = False,
    full: bool = False,
) -> Predicted:
    """Predict a split of a dataset, as ``hpcsamp predict`` does. Serial.

    Parameters
    ----------
    dataset
        Split opened by :meth:`Posterior.open`.
    quantiles, keep_samples
        As for :func:`predict_items`.
    full
        Whether to compute all metrics.
    """
    evaluator = posterior.evaluator(dataset)
    try:
        view = evaluator.view(posterior.method)
        layout = items.layout(
            posterior.task, view, dataset.count,
            dtype=precision(posterior),
            quantiles=quantiles,
            samples=posterior.samples if keep_samples else 0,
        )  # fmt: skip
        wanted = {n: v for n, v in layout.variables.items() if v.values is None}
        values = {n: np.empty(layout.shape(n), v.dtype) for n, v in wanted.items()}

        def keep(rows: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
            for name, array in arrays.items():
                values[name][rows] = array

        series = AdaptiveIntervals(posterior, evaluator, view)
        asked = series.wanted(list(wanted))
        found = evaluator.run(
            posterior.method, full=full, sink=series.sink(keep), wanted=asked, quantiles=quantiles
        )
        values |= {n: v.astype(values[n].dtype) for n, v in series.finish(found).items()}
    finally:
        evaluator.close()
    return Predicted(layout, values, found)
