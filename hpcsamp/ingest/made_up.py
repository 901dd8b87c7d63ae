"""Small synthetic datasets, one for each kind of task."""

from __future__ import annotations

import numpy as np

from hpcsamp.ingest.synthetic import Item, Shapes, Synthetic


class Tags(Synthetic):
    """Four labels for 8 inputs; each label depends on a noisy sum of two of the inputs."""

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        names = ("hot", "wet", "windy", "dark")
        return Shapes(
            ((8,), "<f4", ""), ((4,), "<i8", ""), classes=2, task="multilabel", names=names
        )

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator = self.generator(split, item)
        x = generator.normal(size=8)
        return x, (x[:4] + x[4:] + generator.normal(0, 0.5, 4) > 0.5).astype(int)


class Blobs(Synthetic):
    """(1, 16, 16) images of a disc and a square in noise, with a label for each pixel."""

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        return Shapes(
            ((1, 16, 16), "<f4", ""),
            ((16, 16), "<i8", ""),
            classes=3,
            task="segmentation",
            class_names=("ground", "disc", "square"),
        )

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator = self.generator(split, item)
        row, column = np.mgrid[:16, :16]
        a, b, c, d = generator.integers(3, 13, 4)
        label = np.zeros((16, 16), int)
        label[(np.abs(row - c) < 3) & (np.abs(column - d) < 3)] = 2
        label[(row - a) ** 2 + (column - b) ** 2 < 9] = 1
        return (label * 1.0 + generator.normal(0, 0.4, (16, 16)))[None], label


class Visits(Synthetic):
    """Counts that depend on 5 inputs, with a variance above their mean."""

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        return Shapes(((5,), "<f4", ""), ((), "<f4", "visits"), task="counts")

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator = self.generator(split, item)
        x = generator.normal(size=5)
        rate = np.exp(1 + 0.5 * x[0] - 0.3 * x[1])
        return x, generator.poisson(generator.gamma(3, rate / 3))


class Ratings(Synthetic):
    """One of five ordered ratings that depends on 6 inputs."""

    @classmethod
    def shapes(cls, grid: tuple[int, int] | None) -> Shapes:
        """See :class:`Synthetic`."""
        return Shapes(
            ((6,), "<f4", ""),
            ((), "<i8", ""),
            classes=5,
            task="ordinal",
            class_names=("bad", "poor", "fair", "good", "excellent"),
        )

    def item(self, split: str, item: int) -> Item:
        """See :class:`Synthetic`."""
        generator = self.generator(split, item)
        x = generator.normal(size=6)
        liking = x[0] + 0.5 * x[1] + generator.logistic(0, 0.3)
        return x, int(np.searchsorted([-1.2, -0.4, 0.4, 1.2], liking))
