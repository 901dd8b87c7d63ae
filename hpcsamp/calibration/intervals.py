"""Conformal intervals: a base interval ``[lower, upper]`` widened by ``threshold * scale``.

Two scores are available. Both have the form ``max(lower - y, y - upper) / scale``::

    cqr          lower, upper: predictive quantiles (1 - level)/2 and (1 + level)/2; scale: 1
                 (conformalised quantile regression, Romano et al. 2019, eq. 6); for several
                 series, the standard deviation of each, because they share the thresholds
    normalised   lower, upper: predictive mean; scale: predictive standard deviation
                 (Lei et al. 2018, section 5.2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpcsamp.calibration.quantile import TOLERANCE

SCORES = ("cqr", "normalised")


@dataclass(frozen=True)
class Base:
    """Base intervals of items and their scale.

    Attributes
    ----------
    lower, upper, scale
        ``(B, ...)`` float64, in the units of the target.
    """

    lower: Tensor
    upper: Tensor
    scale: Tensor

    def scores(self, y: Tensor) -> Tensor:
        """Return the scores ``(B, ...)`` of targets, NaN where the target is unknown."""
        away = self._away(y)
        # at a predictive standard deviation of 0 every value but the mean is infinitely far away
        return torch.where((self.scale == 0) & (away == 0), away, away / self.scale)

    def interval(self, threshold: Any) -> tuple[Tensor, Tensor]:
        """Return lower and upper ends ``(B, ...)``; both are the centre if an interval is empty.

        Parameters
        ----------
        threshold
            ``(...)`` or ``(B, ...)``.
        """
        more = torch.as_tensor(threshold, dtype=torch.float64, device=self.scale.device)
        more = torch.where(self.scale == 0, 0.0, more * self.scale)
        low, high = self.lower - more, self.upper + more
        centre = 0.5 * (self.lower + self.upper)
        return torch.minimum(low, centre), torch.maximum(high, centre)

    def holds(self, y: Tensor, threshold: Any) -> Tensor:
        """Return whether targets are inside ``(B, ...)``; the ends belong to the interval."""
        more = torch.as_tensor(threshold, dtype=torch.float64, device=self.scale.device)
        more = torch.where(self.scale == 0, 0.0, more * self.scale)
        size = self.lower.abs() + self.upper.abs() + more.abs()
        return self._away(y) <= more + TOLERANCE * 1e-3 * size

    def _away(self, y: Tensor) -> Tensor:
        return torch.maximum(self.lower - y, y - self.upper)


def base_of(score: str, arrays: dict[str, Tensor]) -> Base:
    """Compute the base intervals of a score.

    Parameters
    ----------
    score
        One of :data:`SCORES`.
    arrays
        ``mean`` and ``std``, ``(B, ...)``; or ``lower`` and ``upper`` quantiles, and
        ``series_std`` if there are several series.
    """
    if score == "cqr":
        lower, upper = arrays["lower"].double(), arrays["upper"].double()
        own = arrays.get("series_std")
        return Base(lower, upper, torch.ones_like(lower) if own is None else own.double())
    mean = arrays["mean"].double()
    return Base(mean, mean, arrays["std"].double())
