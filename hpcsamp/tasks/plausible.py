"""Warn if a predictive distribution is worse than a constant normal distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hpcsamp.data import Dataset
from hpcsamp.explain import more

LEAST_COVERAGE = 0.5
"""Smallest plausible coverage of 90 % intervals; below it the predicted spread is too small."""


class ConstantNormal:
    """NLL of a constant normal distribution, the same for all items, as a baseline.

    Its mean and standard deviation are those of the training targets, separately for each value.

    Parameters
    ----------
    dataset
        The split that is evaluated; it has the statistics of the training targets.
    target
        Name of the target.

    Attributes
    ----------
    state
        ``(2,)`` float64, sum of negative log densities and number of items; states of data groups
        can be added.
    """

    def __init__(self, dataset: Dataset, target: str = "y") -> None:
        self._mean, self._std = map(torch.tensor, dataset.scale(target))
        self.state = torch.zeros(2, dtype=torch.float64)

    def update(self, y: Tensor, weight: Tensor, mask: Tensor | None = None) -> None:
        """Add the ``(B, ...)`` targets of a batch.

        Items of weight 0 and values for which ``mask`` is False are ignored.
        """
        known = (torch.ones_like(y, dtype=torch.bool) if mask is None else mask)[weight > 0].cpu()
        true = y[weight > 0].detach().double().cpu()
        square = ((true - self._mean) / self._std).square()
        each = 0.5 * (square + math.log(2 * math.pi)) + self._std.log()
        each = torch.where(known, each, 0.0)
        items = known.reshape(len(known), math.prod(known.shape[1:])).any(1).sum()
        self.state += torch.stack([each.sum(), items.double()])

    def nll(self) -> float:
        """NLL in nats per item."""
        total, items = self.state.tolist()
        return float(total / items)


def doubt(metrics: Mapping[str, float], constant_nll: float) -> str | None:
    """Return one line that explains why predictions are implausible, or None if they are plausible.

    Parameters
    ----------
    metrics
        Metrics of numeric targets by name; missing metrics are skipped.
    constant_nll
        NLL of a :class:`ConstantNormal`.
    """
    coverage, nll = metrics.get("coverage_90", math.nan), metrics.get("nll", math.nan)
    found = []
    if coverage < LEAST_COVERAGE:
        found.append(f"90 % intervals contain {coverage:.1%} of the values")
    if nll > constant_nll:
        found.append(
            f"the NLL of {nll:.4g} is worse than the {constant_nll:.4g} of a normal distribution "
            f"with the mean and standard deviation of the training targets"
        )
    return f"{'; '.join(found)}{more('intervals')}" if found else None
