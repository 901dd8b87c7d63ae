"""Is a predictive distribution of values better than none? A warning where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hpcsamp.data import Dataset

LEAST_COVERAGE = 0.5
"""Of 90 % intervals: with less, the spread of the predictions is not that of the targets."""


class ConstantNormal:
    """The NLL of a normal distribution that is the same for all items.

    Its mean and standard deviation are those of the training targets, value by value.

    Parameters
    ----------
    dataset
        The split that is evaluated, with the statistics of the training targets.
    target
        Which of its targets.

    Attributes
    ----------
    state
        ``(2,)`` float64, sum of negative log densities and number of items; states of data groups
        add up.
    """

    def __init__(self, dataset: Dataset, target: str = "y") -> None:
        self._mean, self._std = map(torch.tensor, dataset.scale(target))
        self.state = torch.zeros(2, dtype=torch.float64)

    def update(self, y: Tensor, weight: Tensor, mask: Tensor | None = None) -> None:
        """Add the ``(B, ...)`` targets of a batch.

        Items of weight 0 do not count, nor do values for which ``mask`` is False.
        """
        known = (torch.ones_like(y, dtype=torch.bool) if mask is None else mask)[weight > 0].cpu()
        true = y[weight > 0].detach().double().cpu()
        square = ((true - self._mean) / self._std).square()
        each = 0.5 * (square + math.log(2 * math.pi)) + self._std.log()
        each = torch.where(known, each, 0.0)
        items = known.reshape(len(known), math.prod(known.shape[1:])).any(1).sum()
        self.state += torch.stack([each.sum(), items.double()])

    def nll(self) -> float:
        """In nats per item."""
        total, items = self.state.tolist()
        return float(total / items)


def doubt(metrics: Mapping[str, float], constant_nll: float) -> str | None:
    """One line on an evaluation that no one should rely on, else None.

    Parameters
    ----------
    metrics
        Of values; those that are missing are passed over.
    constant_nll
        Of a :class:`ConstantNormal`.
    """
    coverage, nll = metrics.get("coverage_90", math.nan), metrics.get("nll", math.nan)
    found = []
    if coverage < LEAST_COVERAGE:
        found.append(f"90 % intervals hold {coverage:.1%} of the values")
    if nll > constant_nll:
        found.append(
            f"the NLL of {nll:.4g} is worse than the {constant_nll:.4g} of a normal distribution "
            f"with the mean and standard deviation of the training targets"
        )
    return "; ".join(found) or None
