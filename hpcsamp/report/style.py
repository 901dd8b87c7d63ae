"""Style of figures: colours, fonts, sizes and titles.

Colours are those of Okabe and Ito (2008), which can be distinguished with any common colour vision;
line styles or markers distinguish curves as well.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Size in inches of a figure of a report with one panel; figures with several are taller. All have
#: one width, so that their text is equally large on a page, and can be read on a telephone.
WIDTH, HEIGHT = 5.2, 3.8
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PINK, SKY, AMBER = "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, PALE = "#222222", "#777777", "#DDDDDD"
#: Colours of runs, in order; they repeat after seven.
RUNS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_RC: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply this package's style to figures created within the block."""
    with mpl.rc_context(_RC):
        yield


def figure(width: float, height: float, dense: bool = False) -> Figure:
    """Return an empty figure of a size in inches, for files only (no display is needed).

    With ``dense``, there is little space between rows of axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    pads: Any = {"h_pad": 0.015, "hspace": 0.0} if dense else {}
    fig = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(**pads))
    FigureCanvasAgg(fig)
    return fig


def heading(fig: Figure, *lines: str) -> None:
    """Set a left-aligned title with several lines; long lines are wrapped."""
    characters = int(fig.get_figwidth() * 12.5)
    text = "\n".join(textwrap.fill(line, characters) for line in lines)
    fig.suptitle(text, x=0.012, ha="left", fontsize=10.5, color=INK, linespacing=1.4)
    fig.set_label("; ".join(lines))  # for the alternative text


def legend(axes: Axes, columns: int = 3) -> None:
    """Place the legend of a panel below its horizontal axis, where it covers no curve."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -36 / 72, figure.dpi_scale_trans)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, ncols=columns,
        borderaxespad=0, borderpad=0, columnspacing=1.4, handlelength=1.8,
    )  # fmt: skip


def integer_steps(axes: Axes) -> None:
    """Place the ticks of the horizontal axis at integers, as for epochs and steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def same_scales(figures: Sequence[Figure]) -> None:
    """Set the same limits for corresponding panels of several figures, so they can be compared.

    Panels with images keep their own limits.
    """
    for panels in zip(*(fig.axes for fig in figures), strict=False):
        if len(panels) < 2 or any(axes.images for axes in panels):
            continue
        for get, put in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
            limits = [getattr(axes, get)() for axes in panels]
            falling = limits[0][0] > limits[0][1]
            low, high = min(map(min, limits)), max(map(max, limits))
            for axes in panels:
                getattr(axes, put)(*((high, low) if falling else (low, high)))


def png(fig: Figure) -> bytes:
    """Return a figure as PNG."""
    content = io.BytesIO()
    fig.savefig(content, format="png", facecolor="white")
    return content.getvalue()


def save(fig: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    path.write_bytes(png(fig))
    return path
