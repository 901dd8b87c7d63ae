"""Continuous ranked probability score (CRPS) of the ensemble of S outputs, value by value."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses.about import About
from hpcsamp.losses.pairwise import EXCHANGES, PairwiseLoss, divided, gather_samples
from hpcsamp.losses.values import like_target, over_values


class CRPS(PairwiseLoss):
    """Mean distance of the samples to the target minus half the mean distance between samples.

    In units of the target, averaged over the values of an item. The sum over all pairs is computed
    from the sorted outputs: ``sum_{s<r} |y_s - y_r| = sum_k (2 k - S + 1) y_(k)``, k from 0. In a
    sample group of more than two ranks, each sorts 1/P of the values.

    Parameters
    ----------
    fair
        Divide the sum over ordered pairs by ``S (S - 1)``, so that the expected score does not
        depend on S and a small ensemble gains nothing from being too wide; else by ``S^2``, the
        score of the S outputs as a distribution. With S = 1 both are the absolute error.
    alpha
        Weight of the fair score, from 0 to 1; the plain score has the rest. A fair score cannot
        tell an ensemble with S - 1 samples at the target and one anywhere from a perfect one;
        slightly less than 1, such as 0.95, can (almost fair, Lang et al. 2024).

    Raises
    ------
    UsageError
        If alpha is not within 0 and 1, or is given for a score that is not fair.
    """

    about = About(
        formula="mean_s |y_s - t| - 1/2 (alpha/(S (S-1)) + (1-alpha)/S^2) sum_s,r |y_s - y_r| "
        "(plain: alpha = 0)",
        kind="pairwise",
        exchanges=EXCHANGES,
        cost="a sort of 1/P of the values, O(S log S) each",
        source="Gneiting & Raftery 2007, eq. 21; Ferro 2014 (fair); Lang et al. 2024 (alpha)",
    )
    by_values = True

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
        z = like_target(outputs, target) - target
        # Two ranks would send as much as they gather. The size of z does not matter, because model
        # ranks, which may hold more or fewer values, have to choose the same.
        if group.sample_size <= 2:
            each = self._of_values(gather_samples(z, samples, group))
            return over_values(each, weight, average=True)
        each = divided(z.flatten(1), self._of_values, samples, group).view(target.shape)
        return group.sum_over_samples(over_values(each, weight, average=True))

    def _of_values(self, z: Tensor) -> Tensor:
        """Return the scores ``(...)`` of samples ``(S, ...)`` relative to the target."""
        samples, score = len(z), z.abs().mean(0)
        if samples == 1:
            return score
        rank = torch.arange(samples, dtype=z.dtype, device=z.device)
        factor = (2 * rank - (samples - 1)) * self.of_pair(samples)
        # stable: equal outputs get the same gradient on every rank
        ordered = torch.sort(z, dim=0, stable=True).values
        return score - torch.tensordot(factor, ordered, dims=1)
