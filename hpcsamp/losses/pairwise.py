"""Base of losses that compare all S samples with each other: gathered, or divided over the ranks.

Such a loss scores each *column* of the outputs by itself: CRPS the samples of a value, the energy
score the samples of an item. Instead of all outputs on every rank, a rank may have all samples of
1/P of the columns (an all-to-all exchange). It scores these, and sends the gradients back: work and
memory are divided by P, and the bytes are 2/P of those of a gather.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.grid.columns import Columns
from hpcsamp.losses.about import Shared
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.likelihoods import Likelihood, Samples

#: Function of the samples ``(S, m, ...)`` of some columns that returns a score of each, ``(m,)``.
Score = Callable[[Tensor], Tensor]
#: Exchanges of a loss that is divided over ranks, in a sample group of more than two.
EXCHANGES = (
    Shared("all samples of 1/P of the values", 4, "SBV", over_ranks=True, way="all-to-all"),
    Shared("their gradients", 4, "SBV", over_ranks=True, way="all-to-all"),
    Shared("sums", 4, "B"),
)


class PairwiseLoss(DataLoss):
    """Base class of scores of an ensemble by the distances between its samples.

    Parameters
    ----------
    fair, alpha
        As in :class:`~hpcsamp.losses.crps.CRPS`.

    Raises
    ------
    UsageError
        If alpha is not within 0 and 1, or is given for a score that is not fair.
    """

    def __init__(
        self, fair: bool = True, alpha: float = 1.0, *, weights: Tensor | None = None
    ) -> None:
        super().__init__(weights=weights)
        if not 0 <= alpha <= 1:
            raise UsageError(f"alpha, the weight of the fair score, is within 0 and 1, got {alpha}")
        if not fair and alpha != 1:
            raise UsageError(
                f"alpha = {alpha} is the weight of the fair score, but fair is false: set fair to "
                f"true, or leave alpha out"
            )
        self.fair, self.alpha = fair, alpha

    def predictive(self) -> Likelihood:
        """Return :class:`Samples`, because this loss scores the samples themselves."""
        return Samples()

    def of_pair(self, samples: int) -> float:
        """Return the weight of an ordered pair in the mean over pairs of S samples, S >= 2."""
        alpha = self.alpha if self.fair else 0.0
        return (1 - (1 - alpha) / samples) / (samples * (samples - 1))


def gather_samples(y: Tensor, samples: int, group: Collectives) -> Tensor:
    """Return all samples of the group in order, ``(S, ...)``, with gradients for this rank's."""
    counts = [len(share(samples, group.sample_size, p)) for p in range(group.sample_size)]
    return group.gather_over_samples(y, counts)


def divided(y: Tensor, score: Score, samples: int, group: Collectives) -> Tensor:
    """Score columns on the ranks of a sample group, each of which has its share of them.

    Parameters
    ----------
    y
        ``(s, n, ...)``, this rank's samples of ``n`` columns.
    score
        Function that scores each column by itself; it is differentiated once.
    samples
        ``S``.
    group
        The collectives of the sample group.

    Returns
    -------
    Tensor
        ``(n,)``: the scores of this rank's columns, and 0 for the others, to be summed over the
        group after any linear function of them. The gradient is that of all columns with respect to
        this rank's samples; it has been exchanged already, so a backward pass needs no other rank.
    """
    wants = torch.is_grad_enabled() and y.requires_grad
    whole: Tensor = _Divided.apply(y, score, samples, group, wants)
    return whole


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, score: Score, samples: int, group: Collectives, wants: bool
    ) -> Tensor:
        """Return the scores, and keep the gradient of each."""
        columns = Columns(samples, y.shape[1], group)
        mine = columns.mine
        everyone = columns.from_rows(y).requires_grad_(wants)
        with torch.set_grad_enabled(wants):
            each = score(everyone)
            total = each.sum()
        if wants:
            (gradient,) = torch.autograd.grad(total, everyone)
            ctx.save_for_backward(columns.to_rows(gradient))
        whole = each.new_zeros(y.shape[1])
        whole[mine.start : mine.stop] = each.detach()
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the kept gradients, times the incoming ones of their columns."""
        (own,) = ctx.saved_tensors
        outer = grads[0].view(1, -1, *(1,) * (own.dim() - 2))
        return outer * own, None, None, None, None
