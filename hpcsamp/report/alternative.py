"""Alternative text of a figure, which screen readers read aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Longest list of curves of a panel.
CURVES = 8


def alternative(fig: Figure) -> str:
    """Describe a figure: its title, and of each panel the axes and the ends of its named curves.

    Panels with an image alone are counted.
    """
    panels = [text for axes in fig.axes if (text := _panel(axes))]
    images = sum(bool(axes.images) for axes in fig.axes)
    if images and not panels:
        panels = [f"{images} image{'s' * (images > 1)}"]
    return ". ".join([_plain(str(fig.get_label())), *panels]) + "."


def _panel(axes: Axes) -> str:
    """Title, quantities and curves of a panel; empty if it has no vertical axis to describe."""
    x, y = _plain(axes.get_xlabel()), _plain(axes.get_ylabel())
    title = _plain(axes.get_title(loc="left") or axes.get_title())
    if not y or axes.get_label() == "<colorbar>":
        return ""
    quantity = f"{y} over {x}" if x else y
    curves = [text for line in axes.lines if (text := _curve(line))][:CURVES]
    return "; ".join([f"{title}: {quantity}" if title else quantity, *curves])


def _curve(line: Line2D) -> str:
    """Name of a curve and its first and last finite value; empty if the curve has no name."""
    name = line.get_gid() or str(line.get_label())
    values = np.asarray(line.get_ydata(), float)
    values = values[np.isfinite(values)]
    if name.startswith("_") or not values.size:
        return ""
    return f"{name} from {values[0]:.3g} to {values[-1]:.3g}"


def _plain(text: str) -> str:
    return " ".join(text.split())
