"""Neighbours along a periodic axis that lies in parts on the ranks, such as longitude.

For windows and convolutions that reach over the edge of a rank's part, as those of the shifted
windows on a latitude-longitude grid do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpcsamp.layers.exchange import from_end
from hpcsamp.layers.group import Group


def halo(x: Tensor, dim: int, before: int, after: int, over: Group) -> Tensor:
    """The own part with the last values of the part before it and the first of that after it.

    The part before the first is the last one. Sends ``before + after`` values along the axis, in
    one exchange; the backward pass sends as many back, which are added to those they came from.

    Parameters
    ----------
    x
        This rank's part.
    dim
        The axis, counted from the end.
    before, after
        Values of the neighbours; at most as many as each part has.
    over
        The ranks, in the order of their parts.

    Raises
    ------
    ValueError
        For more values than a part has, with both numbers.
    """
    from_end(dim)
    if not 0 <= min(before, after) <= max(before, after) <= x.shape[dim]:
        raise ValueError(
            f"a halo of {before} values before and {after} after a part of {x.shape[dim]}"
        )
    if over.size == 1:
        n = x.shape[dim]
        return torch.cat([x.narrow(dim, n - before, before), x, x.narrow(dim, 0, after)], dim)
    y: Tensor = _Halo.apply(x, dim, before, after, over)
    return y


def rolled(x: Tensor, dim: int, shift: int, over: Group) -> Tensor:
    """``torch.roll`` of the whole, of which each rank has a part, along the axis that is parted.

    Sends ``|shift|`` values along the axis, in one exchange each way.

    Parameters
    ----------
    x, dim, over
        As for :func:`halo`.
    shift
        By how many places values move on; negative: back.

    Raises
    ------
    ValueError
        For a shift of more values than a part has, with both numbers.
    """
    if over.size == 1:
        return torch.roll(x, shift, from_end(dim))
    if shift >= 0:
        return halo(x, dim, shift, 0, over).narrow(dim, 0, x.shape[dim])
    return halo(x, dim, 0, -shift, over).narrow(dim, -shift, x.shape[dim])


def _neighbours(over: Group) -> tuple[int, int]:
    return (over.rank - 1) % over.size, (over.rank + 1) % over.size


def _shape(x: Tensor, dim: int, length: int) -> list[int]:
    shape = list(x.shape)
    shape[dim] = length
    return shape


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dim: int, before: int, after: int, over: Group) -> Tensor:
        previous, following = _neighbours(over)
        exchange, n = over.begin(), x.shape[dim]
        # of two ranks the neighbours are the same: messages come in the order they are sent in
        right = exchange.receive(_shape(x, dim, after), x, following)
        left = exchange.receive(_shape(x, dim, before), x, previous)
        exchange.send(x.narrow(dim, 0, after), previous)
        exchange.send(x.narrow(dim, n - before, before), following)
        exchange.wait()
        return torch.cat([left, x, right], dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.rest = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Folded.apply(g, *ctx.rest), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _Halo.apply(x.movedim(in_dims[0], 0), *rest), 0


class _Folded(torch.autograd.Function):
    """The transpose of :class:`_Halo`: what lies in a halo is added where it came from."""

    @staticmethod
    def forward(g: Tensor, dim: int, before: int, after: int, over: Group) -> Tensor:
        previous, following = _neighbours(over)
        exchange, n = over.begin(), g.shape[dim] - before - after
        last = exchange.receive(_shape(g, dim, before), g, following)
        first = exchange.receive(_shape(g, dim, after), g, previous)
        exchange.send(g.narrow(dim, 0, before), previous)
        exchange.send(g.narrow(dim, before + n, after), following)
        exchange.wait()
        x = g.narrow(dim, before, n).clone()
        x.narrow(dim, n - before, before).add_(last)
        x.narrow(dim, 0, after).add_(first)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.rest = inputs

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Halo.apply(x, *ctx.rest), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _Folded.apply(g.movedim(in_dims[0], 0), *rest), 0
