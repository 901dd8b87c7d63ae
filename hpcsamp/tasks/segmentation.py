"""Segmentation: a label for each pixel of an image, or for each step of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from hpcsamp.kinds import PARTS
from hpcsamp.metrics import ClassificationMetrics, Confusion
from hpcsamp.tasks.base import Found, Tally
from hpcsamp.tasks.labels import Labels, OfClasses, names_of
from hpcsamp.tasks.layout import ITEM, FileVariable, sample_axis
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View


class MapPrediction(OfClasses):
    """Class probabilities ``(B, ..., C)`` of every pixel, and their uncertainties."""

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`."""
        p, total = self.of, self.of.total
        return {
            "target": lambda: self.target,
            "predicted": lambda: p.log_probabilities.argmax(-1),
            "probabilities": lambda: p.log_probabilities.exp(),
            "pixel_total": lambda: total,
            "pixel_epistemic": lambda: total - p.aleatoric,
            "total": lambda: total.flatten(1).mean(1),
            "aleatoric": lambda: p.aleatoric.flatten(1).mean(1),
            "epistemic": lambda: (total - p.aleatoric).flatten(1).mean(1),
            "samples": lambda: p.own.exp().movedim(0, 1),
        }

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`."""
        total = self.of.total.flatten(1).mean(1)
        return {"total": total, "epistemic": total - self.of.aleatoric.flatten(1).mean(1)}


class MapTally(Tally):
    """Metrics of pixels; each pixel has the weight of its item."""

    def __init__(self, targets: Targets, bins: int) -> None:
        classes = Labels.classes(targets)
        self.metrics = ClassificationMetrics(classes, bins)
        self.confusion = Confusion(classes)
        self.names = names_of(targets, classes)
        self.items = self.metrics.state.new_zeros(1)

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.metrics.state, self.confusion.state, self.items]

    def update(
        self,
        prediction: MapPrediction,
        target: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
    ) -> None:
        """See :class:`Tally`."""
        p = prediction.of
        each = weight.reshape(-1, *[1] * (target.dim() - 1)).expand(target.shape)
        if mask is not None:
            each = each * mask
        log_p, flat = p.log_probabilities.flatten(0, -2), each.flatten()
        self.metrics.update(log_p, target.flatten(), flat, p.aleatoric.flatten())
        self.confusion.update(p.log_probabilities.argmax(-1), target, each)
        self.items += (each.flatten(1) > 0).any(1).sum().double().cpu()

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        found = self.metrics.compute() | {"items": float(self.items)}
        iou = self.confusion.iou()
        found = {"accuracy": found.pop("accuracy"), "iou": float(iou.nanmean())} | found
        rows = {
            "name": "class", "axis_units": "", "labels": self.names,
            "units": [""] * len(self.names), "iou": iou.tolist(),
        }  # fmt: skip
        tables: dict[str, Any] = self.metrics.reliability()
        if full:
            tables["confusion"] = self.confusion.table().tolist()
            tables["class_names"] = self.names
        return Found(found, tables, rows)


class Segmentation(Labels):
    """Segmentation: labels ``(H, W)``, or of any shape; the outputs are logits ``(C, H, W)``.

    Each pixel has its own predictive distribution. For networks with logits ``(..., C)``, such
    as transformers, set ``likelihood.channels = "last"``.
    """

    usual_likelihood = "pixelwise"
    best: ClassVar[Mapping[str, int]] = {**Labels.best, "iou": -1}
    parts = PARTS["segmentation"]
    prediction = MapPrediction
    definitions: ClassVar[Mapping[str, str]] = {
        "accuracy": "fraction of pixels whose most probable class is the true class",
        "iou": "intersection over union of each class, mean over classes that occur or are "
        "predicted",
        "nll": "negative log predictive probability, nats per pixel",
        "brier": "Brier score per pixel: sum over classes of squared differences, from 0 to 2",
        "entropy": "total uncertainty: entropy of the predictive distribution of a pixel, nats",
        "aleatoric": "aleatoric uncertainty of a pixel: mean entropy of the samples, nats",
        "mutual_information": "epistemic uncertainty of a pixel: total minus aleatoric, nats",
    }

    def check(self, targets: Targets) -> None:
        """See :class:`Task`."""
        super().check(targets)
        if not targets.shape:
            raise TargetsError(
                f"{self._setting} needs a label for each pixel or step, "
                f"but the targets are {targets}"
            )

    def tally(self, view: View) -> MapTally:
        """See :class:`Task`."""
        return MapTally(view.targets, view.bins)

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """See :class:`Task`."""
        made = {
            name: FileVariable((ITEM,), dtype, "nat", f"{name} uncertainty: {of}, mean over pixels")
            for name, of in (
                ("total", "entropy of the predictive distribution"),
                ("aleatoric", "mean entropy of the samples"),
                ("epistemic", "mutual information of class and weights"),
            )
        }
        scales: dict[str, FileVariable] = {}
        if not values:
            return scales, made
        shape, known = view.targets.shape, view.coordinates.axes
        for i, length in enumerate(shape):
            axis = known[i] if i < len(known) and known[i].told else None
            name = axis.name if axis is not None else _AXES[len(shape)][i]
            at = np.arange(length) if axis is None else axis.values
            kind = "O" if axis is not None and axis.named else "<f8"
            scales[name] = FileVariable((name,), kind, axis.units if axis else "", "", at)
        place = (ITEM, *scales)
        scales["class"] = self.class_axis(view)
        made |= {
            "target": FileVariable(place, "<i8", "", "true class"),
            "predicted": FileVariable(place, "<i8", "", "most probable class"),
            "probabilities": FileVariable(
                (*place, "class"), dtype, "1", "predictive probability, mean over the samples"
            ),
            "pixel_total": FileVariable(
                place, dtype, "nat", "total uncertainty: entropy of the predictive distribution"
            ),
            "pixel_epistemic": FileVariable(
                place, dtype, "nat", "epistemic uncertainty: mutual information"
            ),
        }
        if samples:
            scales["sample"] = sample_axis(samples)
            made["samples"] = FileVariable(
                (ITEM, "sample", *place[1:], "class"), dtype, "1",
                "probabilities of every weight sample",
            )  # fmt: skip
        return scales, made


#: Names of the axes of a target without named axes, by the number of axes.
_AXES = {1: ["step"], 2: ["row", "column"], 3: ["plane", "row", "column"]} | {
    n: [f"axis{i + 1}" for i in range(n)] for n in range(4, 33)
}
