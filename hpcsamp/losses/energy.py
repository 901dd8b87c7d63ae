"""Energy score: the CRPS of whole items, which depends on how their values are correlated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses.about import About, Shared
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.crps import gather_samples, pairs
from hpcsamp.losses.likelihoods import Likelihood, Samples
from hpcsamp.losses.values import like_target


class EnergyScore(DataLoss):
    """CRPS with the Euclidean distance between whole items in place of the absolute difference.

    In units of the target; weights of values multiply the squared differences. Each rank computes
    the pairs of its own samples with all others, so the O(S^2) work is divided over the ranks.

    Parameters
    ----------
    fair
        As in :class:`~hpcsamp.losses.crps.CRPS`.
    """

    about = About(
        formula="mean_s ||y_s - t|| - 1/(2 S (S-1)) sum_s,r ||y_s - y_r|| (plain: 1/(2 S^2))",
        kind="pairwise",
        exchanges=(Shared("all samples", 4, "SBV"), Shared("sums", 8, "B")),
        cost="O(S^2 / P) a value",
        source="Gneiting & Raftery 2007, eq. 22",
    )

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
        z = like_target(outputs, target) - target
        if weight is not None:
            z = z * weight.sqrt()
        z = z.reshape(*z.shape[:2], -1)
        away = torch.linalg.vector_norm(z, dim=-1).sum(0)
        with torch.no_grad():
            everyone = gather_samples(z.detach(), samples, group)
        apart = _DistancesToAll.apply(z, everyone).sum(0)
        # both members of a pair move, each on the rank that holds it: a rank's own share of the
        # pairs has half the gradient, at the full value
        apart = 2 * apart - apart.detach()
        away, apart = group.sum_over_samples(torch.stack([away, apart]))
        return away / samples - apart / (2 * pairs(max(samples, 2), self.fair))


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
