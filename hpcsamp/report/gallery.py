"""The test images a run is least sure of, each with what it said and how its doubt divides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcsamp.errors import HpcsampError
from hpcsamp.report import style
from hpcsamp.report.records import Evaluation, MissingMaterialError, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 8


def gallery(run: Run, evaluation: Evaluation, items: int = 24) -> Figure:
    """The ``items`` most uncertain images of a split, by the entropy of their prediction.

    Above each image the true and the predicted class; below it a bar of the total uncertainty, from
    0 to ``log C`` nats, divided into its aleatoric and its epistemic part.

    Raises
    ------
    MissingMaterialError
        If the run does not classify images, or its items or its dataset are not there.
    """
    if evaluation.items is None:
        raise MissingMaterialError(f"{run.path} has no evaluation/{evaluation.split}.h5")
    with evaluation.open() as f:
        wanted = {"index", "target", "probabilities", "total", "epistemic"}
        if "probabilities" not in f:
            raise MissingMaterialError(f"{run.name} does not classify")
        if missing := wanted - set(f):
            raise MissingMaterialError(f"{evaluation.items} lacks {', '.join(sorted(missing))}")
        total = f["total"][:]
        rows = most_uncertain(total, items)
        index, target = f["index"][:][rows], f["target"][:][rows]
        probabilities, epistemic = f["probabilities"][:][rows], f["epistemic"][:][rows]
    images = as_images(read_inputs(run, evaluation.split, index))

    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    fig = style.figure(max(1.12 * columns, 4.5), 1.58 * lines + 1.05, dense=True)
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
    """Rows of the largest values of ``total`` ``(N,)``, largest first; ties in order of row."""
    return np.argsort(-total, kind="stable")[:items]


def read_inputs(run: Run, split: str, index: np.ndarray) -> np.ndarray:
    """Inputs ``(n, ...)`` of the run's dataset by item index; of several the one that is an image.

    Raises
    ------
    MissingMaterialError
        If the dataset is not where the configuration says, or cannot be read.
    """
    from hpcsamp.data import Dataset

    path = Path(run.setting("data", "path", default=""))
    if not path.is_dir():
        raise MissingMaterialError(
            f"the dataset {path} is not there (paths count from the current folder)"
        )
    try:
        with Dataset.open(path, split) as dataset:
            found = dataset.read(index)[0]
            return found if isinstance(found, np.ndarray) else _image_of(found)
    except HpcsampError as e:
        raise MissingMaterialError(str(e)) from e


def _image_of(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """That one of several inputs that is an image."""
    found = [name for name, x in inputs.items() if x.ndim == 4]
    if len(found) != 1:
        raise MissingMaterialError(
            f"of the inputs {', '.join(inputs)} not one is an image, but "
            f"{', '.join(found) or 'none'}"
        )
    return inputs[found[0]]


def as_images(x: np.ndarray) -> np.ndarray:
    """Inputs as pictures: ``(n, H, W)`` grey or ``(n, H, W, 3)`` colour, from 0 to 1.

    The range of all values together becomes 0..1, so brightness can be compared between items.

    Raises
    ------
    MissingMaterialError
        If one item is not of shape ``(H, W)``, ``(1 or 3, H, W)`` or ``(H, W, 1 or 3)``.
    """
    shape = x.shape[1:]
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
    """``3 → 8  61 %`` with a cross if wrong."""
    said = int(probabilities.argmax())
    right = said == target
    axes.set_title(
        f"{target} → {said}  {'✓' if right else '✗'}",
        fontsize=9,
        loc="center",
        pad=3,
        color=style.BLUE if right else style.ORANGE,
    )


def _doubt(axes: Axes, total: float, epistemic: float, classes: int) -> None:
    """The bar: aleatoric, then epistemic, over a pale track to ``log C``."""
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
            Patch(color=style.PALE, label=f"up to log {classes} = {math.log(classes):.2f} nats"),
        ],
        title="above: true → predicted class; below: total (epistemic) uncertainty, nats",
        title_fontsize=8.5,
        fontsize=8.5,
        loc="outside lower center",
        ncols=3,
    )
