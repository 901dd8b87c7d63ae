"""Continuous ranked probability score (CRPS) of the ensemble of S outputs, value by value."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.grid import share
from hpcsamp.losses.about import About, Shared
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.likelihoods import Likelihood, Samples
from hpcsamp.losses.values import like_target, over_values


def gather_samples(y: Tensor, samples: int, group: Collectives) -> Tensor:
    """Return all samples of the group in order, ``(S, ...)``, with gradients for this rank's."""
    counts = [len(share(samples, group.sample_size, p)) for p in range(group.sample_size)]
    return group.gather_over_samples(y, counts)


class CRPS(DataLoss):
    """Mean distance of the samples to the target minus half the mean distance between samples.

    In units of the target, averaged over the values of an item. The sum over all pairs is computed
    from the sorted outputs: ``sum_{s<r} |y_s - y_r| = sum_k (2 k - S + 1) y_(k)``, k from 0.

    Parameters
    ----------
    fair
        Divide the sum over pairs by ``S (S - 1)``, so that the expected score does not depend on S
        and a small ensemble gains nothing from being too wide; else by ``S^2``, the score of the S
        outputs as a distribution. With S = 1 both are the absolute error.
    """

    about = About(
        formula="mean_s |y_s - t| - 1/(2 S (S-1)) sum_s,r |y_s - y_r| (plain: 1/(2 S^2))",
        kind="pairwise",
        exchanges=(Shared("all samples", 4, "SBV"),),
        cost="a sort, O(S log S) a value",
        source="Gneiting & Raftery 2007, eq. 21; Ferro 2014 (fair)",
    )
    by_values = True

    def __init__(self, fair: bool = True, *, weights: Tensor | None = None) -> None:
        super().__init__(weights=weights)
        self.fair = fair

    def predictive(self) -> Likelihood:
        """Return :class:`Samples`, because this loss scores the samples themselves."""
        return Samples()

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`."""
        # relative to the target: the shift leaves the score unchanged and saves digits in float32
        z = gather_samples(like_target(outputs, target) - target, samples, group)
        score = z.abs().mean(0)
        if samples > 1:
            rank = torch.arange(samples, dtype=z.dtype, device=z.device)
            factor = (2 * rank - (samples - 1)) / pairs(samples, self.fair)
            # stable: equal outputs get the same gradient on every rank
            ordered = torch.sort(z, dim=0, stable=True).values
            score = score - torch.tensordot(factor, ordered, dims=1)
        return over_values(score, weight, average=True)


def pairs(samples: int, fair: bool) -> int:
    """Return the divisor of a sum over ordered pairs of samples."""
    return samples * (samples - 1) if fair else samples**2
