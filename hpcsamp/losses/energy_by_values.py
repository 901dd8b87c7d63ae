"""Energy scores of few large items: each rank has all samples of 1/P of the values of every item.

    d_sr^2 = sum over the ranks p of |z_s^p - z_r^p|^2,        z^p: the values of rank p

A rank sums the squared differences of its values, the ranks add up these ``(S, S)`` numbers of each
item, and with the distances each rank has the gradient of its values. So a rank does 1/P of the
work, for any number of items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.grid.columns import Columns


def by_values(z: Tensor, of_pair: float, samples: int, group: Collectives) -> Tensor:
    """Return energy scores whose exchange is complete, like :func:`~.pairwise.divided`.

    Parameters
    ----------
    z
        ``(s, B, V)``: this rank's samples minus the target.
    of_pair
        Weight of an ordered pair in the mean over pairs.
    samples
        ``S``.
    group
        The collectives of the sample group.

    Returns
    -------
    Tensor
        ``(B,)``: 1/P of the scores, to be summed over the group after any linear function of them.
    """
    found: Tensor = _ByValues.apply(z, of_pair, samples, group)
    return found


class _ByValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, of_pair: float, samples: int, group: Collectives) -> Tensor:
        """Return 1/P of the scores, and keep the gradient of this rank's samples."""
        columns = Columns(samples, z.shape[2], group)
        mine = columns.from_rows(z.transpose(1, 2))  # (S, V/P, B)
        squares = mine.new_empty(samples, samples + 1, mine.shape[2])
        for s, row in enumerate(mine):
            squares[s, :-1] = (row - mine).square_().sum(1)
            squares[s, -1] = row.square().sum(0)
        group.sum_(squares, "sample")
        distance = squares.sqrt_()
        inverse = torch.where(distance > 0, 1 / distance, 0)  # a pair without direction
        score = distance[:, -1].sum(0) / samples - distance[:, :-1].sum((0, 1)) * (of_pair / 2)
        if ctx.needs_input_grad[0]:
            gradient = mine * (inverse[:, -1, None] / samples)
            for s, row in enumerate(mine):
                gradient[s].sub_(((row - mine) * inverse[s, :-1, None]).sum(0), alpha=of_pair)
            ctx.save_for_backward(columns.to_rows(gradient).transpose(1, 2))
        return score / group.sample_size

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the kept gradient, times the incoming one of each item."""
        (own,) = ctx.saved_tensors
        return grads[0][None, :, None] * own, None, None, None
