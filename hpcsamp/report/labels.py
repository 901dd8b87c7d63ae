"""Figures of classification: confusion matrix, metrics by label, maps of uncertain pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.report import style
from hpcsamp.report.gallery import as_images, most_uncertain, read_inputs
from hpcsamp.report.records import (
    DoesNotApplyError,
    EvaluationRecord,
    MissingMaterialError,
    RunRecord,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Largest number of classes for which a confusion matrix shows names and numbers.
NAMED = 20
#: Number of images in a figure of maps.
SHOWN = 4


def confusion_matrix(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw the confusion matrix: how often each class is predicted for items of each true class.

    Raises
    ------
    DoesNotApplyError
        If the evaluation has no confusion matrix, e.g. because there are too many classes.
    """
    if "confusion" not in evaluation.reliability:
        raise DoesNotApplyError(f"{run.name} has no confusion matrix")
    (table,) = evaluation.bins("confusion")
    names = [str(name) for name in evaluation.reliability["class_names"]]
    total = table.sum(1, keepdims=True)
    share = np.divide(table, total, out=np.zeros_like(table), where=total > 0)
    fig = style.figure(style.WIDTH, style.WIDTH)
    axes = fig.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    if len(names) <= NAMED:
        at = range(len(names))
        axes.set_xticks(at, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(at, [f"{n} ({t:.0f})" for n, t in zip(names, total[:, 0], strict=True)])
        for i, j in np.ndindex(*share.shape):
            if table[i, j] > 0:
                axes.text(
                    j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center",
                    fontsize=6.5 if len(names) > 12 else 8,
                    color="white" if share[i, j] > 0.5 else style.INK,
                )  # fmt: skip
    axes.set(xlabel="predicted class", ylabel="true class")
    style.heading(fig, run.title, f"{evaluation.split}: per cent of each true class")
    return fig


def by_label(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw the F1 score, accuracy and calibration error of each label.

    Raises
    ------
    MissingMaterialError
        If the evaluation has no metrics by label.
    """
    rows = evaluation.rows
    shown = [k for k in ("f1", "accuracy", "ece", "prevalence") if k in rows]
    if not shown:
        raise MissingMaterialError(f"{run.name} has no metrics by label")
    names = [str(name) for name in rows["labels"]]
    fig = style.figure(style.WIDTH, max(style.HEIGHT, 1.8 + 0.26 * min(len(names), 60)))
    axes = fig.subplots()
    height = 0.8 / len(shown)
    for k, key in enumerate(shown):
        values = np.asarray(rows[key], float)
        place = np.arange(len(names)) + (k - (len(shown) - 1) / 2) * height
        axes.barh(place, values, height, color=style.RUNS[k], label=key)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    fig.legend(loc="outside lower center", ncols=len(shown))
    style.heading(fig, run.title, f"{evaluation.split}, by {rows['name']}")
    return fig


def uncertain_maps(run: RunRecord, evaluation: EvaluationRecord) -> Figure:
    """Draw the most uncertain images: input, true and predicted classes, entropy of each pixel.

    Raises
    ------
    MissingMaterialError
        If the evaluated items, their maps or the dataset are missing, or inputs are not images.
    """
    if evaluation.items is None:
        raise MissingMaterialError(f"{run.path} has no evaluation/{evaluation.split}.h5")
    with evaluation.open() as f:
        if missing := {"index", "target", "predicted", "pixel_total"} - set(f):
            raise MissingMaterialError(f"{evaluation.items} lacks {', '.join(sorted(missing))}")
        if f["predicted"].ndim != 3:
            raise MissingMaterialError("the targets are not two-dimensional maps")
        rows = most_uncertain(f["total"][:], SHOWN)
        order = np.argsort(rows)  # HDF5 reads rows in ascending order
        back = np.argsort(order)
        target, predicted, doubt, index = (
            f[name][rows[order]][back] for name in ("target", "predicted", "pixel_total", "index")
        )
        classes = len(f["class"])
    images = as_images(read_inputs(run, evaluation.split, index))
    fig = style.figure(style.WIDTH, 1.32 * len(rows) + 0.9, dense=True)
    grid = fig.subplots(len(rows), 4, squeeze=False)
    for line, parts in enumerate(zip(images, target, predicted, doubt, strict=True)):
        image, true, guess, entropy = parts
        _map(grid[line, 0], image, "input" if line == 0 else "", cmap="gray_r")
        for column, (values, title) in enumerate(((true, "true"), (guess, "predicted")), start=1):
            _map(
                grid[line, column], values, title if line == 0 else "", cmap="viridis", vmin=0,
                vmax=classes - 1,
            )  # fmt: skip
        _map(
            grid[line, 3], entropy, "entropy" if line == 0 else "", cmap="magma", vmin=0,
            vmax=float(np.log(classes)),
        )  # fmt: skip
    style.heading(fig, run.title, f"the {len(rows)} most uncertain {evaluation.split} images")
    return fig


def _map(axes: Axes, values: np.ndarray, title: str, **options: object) -> None:
    axes.imshow(values, interpolation="nearest", **options)  # type: ignore[arg-type]
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(visible=False)
