"""Energy score: the CRPS of whole items, which depends on how their values are correlated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses.about import About
from hpcsamp.losses.energy_by_values import by_values
from hpcsamp.losses.pairwise import EXCHANGES, PairwiseLoss, divided, gather_samples
from hpcsamp.losses.values import like_target


class EnergyScore(PairwiseLoss):
    """CRPS with the Euclidean distance between whole items in place of the absolute difference.

    In units of the target; weights of values multiply the squared differences. The O(S^2) work is
    divided over the ranks: each computes all pairs of samples of 1/P of the items, or for few items
    of 1/P of the values of each (and the ranks add up ``4 S (S + 1) B`` bytes of squares). For two
    ranks, and for few small items, all samples are gathered instead (``4 S B V`` bytes), and each
    rank computes the pairs of its own samples with all others.

    Parameters
    ----------
    fair, alpha
        As in :class:`~hpcsamp.losses.crps.CRPS`.

    Raises
    ------
    UsageError
        As for :class:`~hpcsamp.losses.crps.CRPS`.
    """

    about = About(
        formula="mean_s ||y_s - t|| - 1/2 (alpha/(S (S-1)) + (1-alpha)/S^2) "
        "sum_s,r ||y_s - y_r|| (plain: alpha = 0)",
        kind="pairwise",
        exchanges=EXCHANGES,
        cost="O(S^2 / P) a value",
        source="Gneiting & Raftery 2007, eq. 22; Lang et al. 2024 (alpha)",
    )

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`."""
        z = like_target(outputs, target) - target
        if weight is not None:
            z = z * weight.sqrt()
        z = z.reshape(*z.shape[:2], -1)
        items = z.shape[1]
        most = -(-items // group.sample_size)
        if 2 * most < items:  # there and back is less than everything
            each = divided(z, lambda y: self._of_items(y, y.detach()), samples, group)
        elif 2 * -(-z.shape[2] // group.sample_size) + samples < z.shape[2]:
            each = by_values(z, self.of_pair(samples), samples, group)
        else:
            each = self._of_items(z, gather_samples(z.detach(), samples, group))
        return group.sum_over_samples(each)

    def _of_items(self, own: Tensor, everyone: Tensor) -> Tensor:
        """Return the terms ``(B,)`` of samples ``(s, B, V)``, which add up to the scores.

        ``everyone``: all samples ``(S, B, V)``, without gradient.
        """
        samples = len(everyone)
        away = torch.linalg.vector_norm(own, dim=-1).sum(0) / samples
        if samples == 1:
            return away
        apart = _DistancesToAll.apply(own, everyone).sum(0)
        # both members of a pair move, each where its own gradient is computed: a term has half the
        # gradient, at the full value
        apart = 2 * apart - apart.detach()
        return away - apart * (self.of_pair(samples) / 2)


class _DistancesToAll(torch.autograd.Function):
    """Sums ``(s, B)`` over r of ``||z_s - z_r||``, for ``(s, B, V)`` and constant ``(S, B, V)``.

    The gradient is computed together with the value, one sample at a time: autograd would keep
    ``s S B V`` values.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, everyone: Tensor) -> Tensor:
        """Return the sums, and keep their gradient."""
        total, unit = own.new_empty(own.shape[:2]), torch.empty_like(own)
        for s, row in enumerate(own):
            difference = row - everyone
            distance = torch.linalg.vector_norm(difference, dim=-1)
            total[s] = distance.sum(0)
            inverse = torch.where(distance > 0, 1 / distance, 0)  # a pair without direction
            unit[s] = (difference * inverse[..., None]).sum(0)
        ctx.save_for_backward(unit)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the sums of unit vectors, times the incoming gradient."""
        (unit,) = ctx.saved_tensors
        return grads[0][..., None] * unit, None
