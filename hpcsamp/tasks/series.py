"""Several series in one set, each scaled by its own statistics: their units, and their metrics.

``hpcsamp ingest series --id`` subtracts the mean of the train part of each series and divides by
its standard deviation, so that one network can learn all of them. Predictions and metrics are
converted back to the units of the series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.data.manifest import Manifest
from hpcsamp.metrics import RegressionMetrics

SHOWN = (
    "rmse", "mae", "bias", "crps", "spread", "spread_skill", "coverage_50", "coverage_90", "items"
)  # fmt: skip
"""Metrics of each series, if they were computed."""


@dataclass(frozen=True)
class Scaled:
    """Series that were each scaled by their own mean and standard deviation.

    Attributes
    ----------
    names
        Names of the series.
    mean, std
        ``(series,)`` float64: a value is ``std * stored + mean``.
    of
        ``(items,)`` index of the series of each item.
    """

    names: Sequence[str]
    mean: np.ndarray
    std: np.ndarray
    of: np.ndarray

    def take(self, index: np.ndarray) -> Scaled:
        """Return the series of some items."""
        return replace(self, of=self.of[index])


def scaled_series(manifest: Manifest, of: np.ndarray | None) -> Scaled | None:
    """Return the series of a set and of its items; None unless each is scaled by its own numbers.

    Parameters
    ----------
    of
        ``(items,)`` index of the series of each item; None if it is not known.
    """
    recipe = manifest.source.get("series")
    if of is None or not isinstance(recipe, dict) or len(recipe.get("names", ())) < 2:
        return None
    mean, std = np.asarray(recipe["scales"], float).T
    return Scaled(list(recipe["names"]), mean, std, np.asarray(of, np.int64))


class BySeries:
    """Metrics of each series of a split, in its units.

    Parameters
    ----------
    names
        Names of the series.
    options
        Arguments of :class:`~hpcsamp.metrics.RegressionMetrics`.
    """

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        self.names = list(names)
        self.each = [RegressionMetrics(**options) for _ in names]

    @property
    def states(self) -> list[Tensor]:
        """Sums of all series, which can be added over data groups in place."""
        return [metrics.state for metrics in self.each]

    def update(self, of: np.ndarray, weight: Tensor, *moments: Tensor, **more: Any) -> None:
        """Add a batch to the series of its items.

        Parameters
        ----------
        of
            ``(B,)`` index of the series of each item.
        weight, moments, more
            Arguments of :meth:`~hpcsamp.metrics.RegressionMetrics.update`.
        """
        for series in np.unique(of).tolist():
            own = torch.from_numpy(of == series).to(weight.device)
            self.each[series].update(*moments, torch.where(own, weight, 0.0), **more)

    def table(self) -> dict[str, Any]:
        """Return the names of the series with items, ``labels``, and their metrics by name."""
        found = {
            name: metrics.compute()
            for name, metrics in zip(self.names, self.each, strict=True)
            if float(metrics.state.abs().sum()) > 0
        }
        keys = [key for key in SHOWN if all(key in of for of in found.values())]
        return {"labels": list(found)} | {k: [of[k] for of in found.values()] for k in keys}
