"""Alternative text of a figure, which screen readers read aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Largest number of curves that are described for a panel.
CURVES = 8


def alternative(fig: Figure) -> str:
    """Describe a figure: its title and, for each panel, the axes and the ends of named curves.

    Panels that only show an image are counted.
    """
    panels = [text for axes in fig.axes if (text := _panel(axes))]
    images = sum(bool(axes.images) for axes in fig.axes)
    if images and not panels:
        panels = [f"{images} image{'s' * (images > 1)}"]
    return ". ".join([_plain(str(fig.get_label())), *panels]) + "."


def _panel(axes: Axes) -> str:
    """Describe title, quantities and curves of a panel; empty if no vertical axis is labelled."""
    x, y = _plain(axes.get_xlabel()), _plain(axes.get_ylabel())
    title = _plain(axes.get_title(loc="left") or axes.get_title())
    if not y or axes.get_label() == "<colorbar>":
        return ""
    quantity = f"{y} over {x}" if x else y
    curves = [text for line in axes.lines if (text := _curve(line))][:CURVES]
    return "; ".join([f"{title}: {quantity}" if title else quantity, *curves])


def _curve(line: Line2D) -> str:
    """Return the name of a curve with its first and last finite value; empty if it has no name."""
    name = line.get_gid() or str(line.get_label())
    values = np.asarray(line.get_ydata(), float)
    values = values[np.isfinite(values)]
    if name.startswith("_") or not values.size:
        return ""
    return f"{name} from {values[0]:.3g} to {values[-1]:.3g}"


def _plain(text: str) -> str:
    return " ".join(text.split())
