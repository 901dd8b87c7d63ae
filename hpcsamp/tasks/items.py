"""What is kept of every item: the layout of a predictions file, and the arrays that fill it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.data import Batch, Dataset
from hpcsamp.tasks.coordinates import Axis, Coordinates
from hpcsamp.tasks.layout import Layout, Variable
from hpcsamp.tasks.predictive import ClassPrediction, ValuePrediction
from hpcsamp.tasks.units import Units

ITEM = "index"


def layout(
    dataset: Dataset,
    coordinates: Coordinates,
    units: Units,
    *,
    dtype: str = "<f4",
    quantiles: Sequence[float] = (),
    samples: int = 0,
    values: bool = True,
    attributes: Mapping[str, Any] | None = None,
) -> Layout:
    """The arrays of a split's predictions.

    Parameters
    ----------
    dtype
        Of what is predicted.
    quantiles
        Levels, for values.
    samples
        How many samples are kept; 0 for none.
    values
        Whether predictions of every value are kept, or (fields are large) one number per item only.
    """
    count = dataset.count
    scales = {
        ITEM: Variable((ITEM,), "<i8", "", "position in the split", np.arange(count, dtype="<i8"))
    }
    known = {
        name: Variable((ITEM,), "<f8", unit, "", v)
        for name, (v, unit) in coordinates.per_item.items()
    }
    if dataset.classes is not None:
        made = _of_classes(dataset.classes, dtype, samples, scales)
    else:
        made = _of_values(coordinates.axes, units, dtype, quantiles, samples, values, scales)
    return Layout(scales, known | made, dict(attributes or {}))


def _of_classes(
    classes: int, dtype: str, samples: int, scales: dict[str, Variable]
) -> dict[str, Variable]:
    scales["class"] = Variable(("class",), "<i8", "", "", np.arange(classes, dtype="<i8"))
    made = {
        "target": Variable((ITEM,), "<i8", "", "true class"),
        "probabilities": Variable(
            (ITEM, "class"), dtype, "1", "predictive probability, mean over the samples"
        ),
        "total": Variable((ITEM,), dtype, "nat", "total uncertainty: entropy of the predictive"),
        "aleatoric": Variable(
            (ITEM,), dtype, "nat", "aleatoric uncertainty: mean entropy of the samples"
        ),
        "epistemic": Variable(
            (ITEM,), dtype, "nat", "epistemic uncertainty: mutual information of class and weights"
        ),
    }
    if samples:
        _add_samples(samples, scales)
        made["samples"] = Variable(
            (ITEM, "sample", "class"), dtype, "1", "probabilities of every weight sample"
        )
    return made


def _of_values(
    axes: Sequence[Axis],
    units: Units,
    dtype: str,
    quantiles: Sequence[float],
    samples: int,
    values: bool,
    scales: dict[str, Variable],
) -> dict[str, Variable]:
    what = "variance of values (in squared standard deviations), mean over an item"
    made = {
        "total": Variable((ITEM,), dtype, "", f"total uncertainty: predictive {what}"),
        "aleatoric": Variable((ITEM,), dtype, "", f"aleatoric uncertainty: mean noise {what}"),
        "epistemic": Variable(
            (ITEM,), dtype, "", f"epistemic uncertainty: of the samples' means, {what}"
        ),
        "error": Variable(
            (ITEM,), dtype, "", "root mean squared error of an item, standard deviations"
        ),
    }
    if not values:
        return made
    unit = "" if units.mixed else units.name
    for axis in axes:
        kind = "<f8" if not axis.named else "O"
        scales[axis.name] = Variable((axis.name,), kind, axis.units, "", axis.values)
    place = tuple(a.name for a in axes)
    made |= {
        "target": Variable((ITEM, *place), dtype, unit, "what came to be"),
        "mean": Variable((ITEM, *place), dtype, unit, "predictive mean"),
        "std": Variable((ITEM, *place), dtype, unit, "predictive standard deviation with noise"),
        "std_aleatoric": Variable(
            (ITEM, *place), dtype, unit, "root of the mean noise variance of the samples"
        ),
        "std_epistemic": Variable(
            (ITEM, *place), dtype, unit, "standard deviation of the samples' means"
        ),
    }
    if quantiles:
        levels = np.asarray(quantiles, "<f8")
        scales["quantile"] = Variable(("quantile",), "<f8", "", "probability", levels)
        made["quantiles"] = Variable(
            (ITEM, "quantile", *place), dtype, unit, "exact quantiles of the predictive mixture"
        )
    if samples:
        _add_samples(samples, scales)
        made["samples"] = Variable(
            (ITEM, "sample", *place), dtype, unit, "mean of every weight sample, without noise"
        )
    return made


def _add_samples(samples: int, scales: dict[str, Variable]) -> None:
    scales["sample"] = Variable(
        ("sample",), "<i8", "", "weight sample", np.arange(samples, dtype="<i8")
    )


def of_classes(batch: Batch, p: ClassPrediction, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The wanted arrays of a batch; of ``samples`` this rank's own, with the items first."""
    total = p.total
    return _arrays(
        wanted,
        target=lambda: batch.y,
        probabilities=lambda: p.log_probabilities.exp(),
        total=lambda: total,
        aleatoric=lambda: p.aleatoric,
        epistemic=lambda: total - p.aleatoric,
        samples=lambda: p.own.exp().movedim(0, 1),
    )


def of_values(
    batch: Batch,
    p: ValuePrediction,
    units: Units,
    weights: Tensor | None,
    quantiles: Tensor,
    wanted: Collection[str],
) -> dict[str, np.ndarray]:
    """The wanted arrays of a batch, those of values in the units of the target.

    Parameters
    ----------
    weights
        Of values, with a mean of 1, broadcastable to an item; None for equal ones.
    quantiles
        ``(Q, B, ...)``.
    """
    total = p.aleatoric + p.epistemic

    def over_item(variance: Tensor) -> Tensor:
        x = units.relative(units.relative(variance))
        if weights is not None:
            x = x * weights.to(x.device)
        return x.flatten(1).mean(1) if x.dim() > 1 else x

    return _arrays(
        wanted,
        target=lambda: units.value(batch.y),
        mean=lambda: units.value(p.mean),
        std=lambda: units.spread(total.double().sqrt()),
        std_aleatoric=lambda: units.spread(p.aleatoric.double().sqrt()),
        std_epistemic=lambda: units.spread(p.epistemic.double().clamp_min(0).sqrt()),
        total=lambda: over_item(total),
        aleatoric=lambda: over_item(p.aleatoric),
        epistemic=lambda: over_item(p.epistemic),
        error=lambda: over_item((p.mean - batch.y).double().square()).sqrt(),
        quantiles=lambda: torch.stack([units.value(q) for q in quantiles], 1),
        samples=lambda: torch.stack([units.value(m) for m in p.own_means], 1),
    )


def _arrays(wanted: Collection[str], **values: Callable[[], Tensor]) -> dict[str, np.ndarray]:
    return {k: make().cpu().numpy() for k, make in values.items() if k in wanted}
