"""Gallery of the most uncertain test images: prediction, aleatoric and epistemic uncertainty."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.errors import HpcsampError
from hpcsamp.report import style
from hpcsamp.report.records import (
    DoesNotApplyError,
    EvaluationRecord,
    MissingMaterialError,
    RunRecord,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4


def gallery(run: RunRecord, evaluation: EvaluationRecord, items: int = 24) -> Figure:
    """Draw the ``items`` images of a split whose predictions have the largest entropy.

    Above each image are the true and the predicted class. The bar below it shows the total
    uncertainty, from 0 to ``log C`` nats, divided into an aleatoric and an epistemic part.

    Raises
    ------
    MissingMaterialError
        If the run does not classify images, or its evaluated items or its dataset are missing.
    """
    if evaluation.items is None:
        raise MissingMaterialError(f"{run.path} has no evaluation/{evaluation.split}.h5")
    with evaluation.open() as f:
        wanted = {"index", "target", "probabilities", "total", "epistemic"}
        if "probabilities" not in f:
            raise MissingMaterialError(f"{run.name} is not a classification run")
        if missing := wanted - set(f):
            raise MissingMaterialError(f"{evaluation.items} lacks {', '.join(sorted(missing))}")
        total = f["total"][:]
        rows = most_uncertain(total, items)
        index, target = f["index"][:][rows], f["target"][:][rows]
        probabilities, epistemic = f["probabilities"][:][rows], f["epistemic"][:][rows]
    images = as_images(read_inputs(run, evaluation.split, index))

    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    fig = style.figure(style.WIDTH, 1.75 * lines + 1.2, dense=True)
    grid = fig.add_gridspec(2 * lines, columns, height_ratios=[1, 0.09] * lines)
    for i in range(len(rows)):
        line, column = divmod(i, columns)
        picture = fig.add_subplot(grid[2 * line, column])
        picture.imshow(images[i], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        _frame(picture)
        _verdict(picture, int(target[i]), probabilities[i])
        bar = fig.add_subplot(grid[2 * line + 1, column])
        _doubt(bar, float(total[rows[i]]), float(epistemic[i]), probabilities.shape[1])
    _legend(fig, probabilities.shape[1])
    style.heading(
        fig, run.title, f"the {len(rows)} most uncertain of {len(total)} {evaluation.split} items"
    )
    return fig


def most_uncertain(total: np.ndarray, items: int) -> np.ndarray:
    """Return the rows of the largest values of ``total`` ``(N,)``, largest first; ties by row."""
    return np.argsort(-total, kind="stable")[:items]


def read_inputs(run: RunRecord, split: str, index: np.ndarray) -> np.ndarray:
    """Read inputs ``(n, ...)`` from the run's dataset by item index.

    If there are several inputs, the one that is an image is returned.

    Raises
    ------
    MissingMaterialError
        If the dataset is not at the path in the configuration, or cannot be read.
    """
    from hpcsamp.data import Dataset

    path = Path(run.setting("data", "path", default=""))
    if not path.is_dir():
        raise MissingMaterialError(
            f"the dataset {path} does not exist (paths are relative to the current folder)"
        )
    try:
        with Dataset.open(path, split) as dataset:
            inputs = dataset.read(index)[0]
            return inputs if isinstance(inputs, np.ndarray) else _image_of(inputs)
    except HpcsampError as e:
        raise MissingMaterialError(str(e)) from e


def _image_of(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the single input that is an image, if there are several inputs."""
    images = [name for name, x in inputs.items() if x.ndim == 4]
    if not images:
        raise DoesNotApplyError(f"none of the inputs {', '.join(inputs)} is an image")
    if len(images) != 1:
        raise MissingMaterialError(
            f"exactly one of the inputs {', '.join(inputs)} must be an image, but the images are: "
            f"{', '.join(images)}"
        )
    return inputs[images[0]]


def as_images(x: np.ndarray) -> np.ndarray:
    """Convert inputs to grey ``(n, H, W)`` or colour images ``(n, H, W, 3)`` with values in [0, 1].

    All items are scaled together, so their brightness can be compared.

    Raises
    ------
    DoesNotApplyError
        If items are vectors, not images.
    MissingMaterialError
        If the shape of an item is not ``(H, W)``, ``(1 or 3, H, W)`` or ``(H, W, 1 or 3)``.
    """
    shape = x.shape[1:]
    if len(shape) < 2:
        raise DoesNotApplyError(f"items of shape {shape} are not images")
    if len(shape) == 3 and shape[0] in (1, 3):
        x = np.moveaxis(x, 1, -1)
    elif not (len(shape) == 3 and shape[2] in (1, 3)) and len(shape) != 2:
        raise MissingMaterialError(f"items of shape {shape} are not images")
    x = x.astype(np.float64)
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high > low else np.zeros_like(x)


def _frame(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=style.PALE)


def _verdict(axes: Axes, target: int, probabilities: np.ndarray) -> None:
    """Write the true and the predicted class above an image: ``3 → 8  ✗``."""
    predicted = int(probabilities.argmax())
    right = predicted == target
    axes.set_title(
        f"{target} → {predicted}  {'✓' if right else '✗'}",
        fontsize=9,
        loc="center",
        pad=3,
        color=style.BLUE if right else style.ORANGE,
    )


def _doubt(axes: Axes, total: float, epistemic: float, classes: int) -> None:
    """Draw the bar of aleatoric and epistemic uncertainty on a background from 0 to ``log C``."""
    axes.barh(0, math.log(classes), color=style.PALE, height=1)
    axes.barh(0, total - epistemic, color=style.SKY, height=1)
    axes.barh(0, epistemic, left=total - epistemic, color=style.INK, height=1)
    axes.set(xlim=(0, math.log(classes)), ylim=(-0.5, 0.5), xticks=[], yticks=[])
    axes.set_xlabel(f"{total:.2f} ({epistemic:.2f})", fontsize=7.5, labelpad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(fig: Figure, classes: int) -> None:
    from matplotlib.patches import Patch

    fig.legend(
        handles=[
            Patch(color=style.SKY, label="aleatoric"),
            Patch(color=style.INK, label="epistemic"),
            Patch(
                color=style.PALE, label=f"rest, up to log {classes} = {math.log(classes):.2f} nats"
            ),
        ],
        title="above: true → predicted class; below: total (epistemic) uncertainty, nats",
        title_fontsize=8.5,
        fontsize=8.5,
        loc="outside lower center",
        ncols=3,
    )
