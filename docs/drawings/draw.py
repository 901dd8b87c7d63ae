"""Draw the pictures of the concept pages as SVG files beside this script.

    python docs/drawings/draw.py

Only text and rectangles: the files are small, can be read as text, and are compared with what this
script writes (``tests/test_readme.py``).
"""

from __future__ import annotations

from html import escape
from pathlib import Path

BLUE, ORANGE, GREEN, GREY, INK = "#d6e4f5", "#fbe3cc", "#d9efd9", "#eeeeee", "#222222"


class Drawing:
    """An SVG picture, built element by element."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, fill: str, *lines: str) -> None:
        """A rectangle with centred lines of text."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="4" fill="{fill}" stroke="{INK}"/>'
        )
        top = y + h / 2 + 5 - 9 * (len(lines) - 1)
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 18 * i, line, "middle")

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = 14) -> None:
        """One line of text."""
        self.parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">'
            f"{escape(text)}</text>"
        )

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """A line with a tip."""
        self.parts.append(
            f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="{INK}" '
            'marker-end="url(#tip)"/>'
        )

    def frame(self, x: float, y: float, w: float, h: float) -> None:
        """A dashed frame."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="none" stroke="{INK}" '
            'stroke-dasharray="5 4"/>'
        )

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


def grid() -> Drawing:
    """Two data groups and four sample ranks."""
    d = Drawing(
        700, 250, "Two nodes of four ranks: each node holds a batch, its ranks share samples"
    )
    shares = ("samples 0-3", "4-7", "8-11", "12-15")
    for column, share in enumerate(shares):
        d.text(195 + 120 * column, 28, share, "middle")
    for row, (batch, fill) in enumerate((("batch A", BLUE), ("batch B", ORANGE))):
        y = 48 + 84 * row
        d.text(12, y + 28, f"node {row}")
        d.text(12, y + 46, batch)
        d.frame(128, y - 8, 494, 66)
        for column in range(4):
            d.box(140 + 120 * column, y, 110, 50, fill, f"rank {4 * row + column}")
    d.text(12, 225, "A row is a sample group: the same batch, different samples.")
    d.text(12, 244, "A column is a data group: the same samples, different batches.")
    return d


def reading() -> Drawing:
    """A batch is read once per sample group."""
    d = Drawing(640, 220, "Each rank of a node reads a quarter of the batch into shared memory")
    d.box(10, 80, 120, 60, GREY, "storage", "(HDF5 shards)")
    d.box(190, 20, 150, 180, BLUE, "one batch in the", "shared memory", "of the node")
    for i in range(4):
        y = 22 + 46 * i
        d.arrow(130, 110, 188, y + 20)
        d.arrow(340, y + 20, 408, y + 20)
        d.box(410, y, 110, 38, GREEN, f"rank {i}")
        d.text(535, y + 24, ("s 0-3", "s 4-7", "s 8-11", "s 12-15")[i])
    d.text(70, 160, "each rank reads 1/4", "middle", 12)
    return d


def exactness() -> Drawing:
    """Statistics of all samples are shared, gradients stay local."""
    d = Drawing(700, 250, "Ranks exchange statistics forward and sum gradients at the end")
    for i, (name, low) in enumerate((("rank 0", 0), ("rank 1", 8))):
        y = 20 + 110 * i
        d.text(6, y + 40, name)
        d.box(70, y, 130, 70, BLUE, "forward passes", f"samples {low}-{low + 7}")
        d.arrow(200, y + 35, 244, y + 35)
        d.box(400, y, 130, 70, BLUE, "backward passes", f"samples {low}-{low + 7}")
        d.arrow(364, y + 35, 398, y + 35)
        d.arrow(530, y + 35, 570, y + 35)
    d.box(
        250, 20, 100, 180, ORANGE, "statistics", "of all outputs:", "the loss of", "all S samples"
    )
    d.box(572, 20, 122, 180, GREEN, "sum of the", "gradients =", "the sequential", "gradient")
    d.text(70, 232, "exchanged: a few numbers per item")
    d.text(690, 232, "exchanged: one gradient", "end")
    return d


def axes() -> Drawing:
    """Data groups x sample ranks x model ranks."""
    d = Drawing(700, 240, "Eight ranks as two data groups, two sample ranks and two model ranks")
    for data in range(2):
        x = 20 + 345 * data
        d.text(x, 24, f"data group {data}: batch {'AB'[data]}")
        for sample in range(2):
            y = 40 + 88 * sample
            d.frame(x, y, 315, 76)
            d.text(x + 8, y + 43, f"samples {4 * sample}-{4 * sample + 3}")
            for model in range(2):
                rank = 4 * data + 2 * sample + model
                d.box(
                    x + 108 + 102 * model, y + 10, 96, 56, (BLUE, ORANGE)[data],
                    f"rank {rank}", ("west half", "east half")[model],
                )  # fmt: skip
    d.text(20, 234, "A dashed frame is a model group: one network and one item in two parts.")
    return d


DRAWINGS = {"grid": grid, "reading": reading, "exactness": exactness, "axes": axes}

if __name__ == "__main__":
    for name, make in DRAWINGS.items():
        Path(__file__).with_name(f"{name}.svg").write_text(str(make()))
