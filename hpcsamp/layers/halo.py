"""Halo exchange along a periodic axis that is split over the ranks, such as longitude.

For windows and convolutions that reach beyond the edge of a rank's part, such as shifted windows on
a latitude-longitude grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.layers.exchange import from_end, linear, resized
from hpcsamp.layers.group import Group


def halo(x: Tensor, dim: int, before: int, after: int, over: Group) -> Tensor:
    """Return this rank's part, extended by the values just before and just after it.

    The axis is periodic. Sends ``before + after`` values along the axis, in one exchange; the
    backward pass sends as many back and adds them to the gradients of their origin.

    Parameters
    ----------
    x
        This rank's part.
    dim
        The axis, counted from the end.
    before, after
        Numbers of values from the neighbours; at most as many as each part has.
    over
        The ranks, in the order of their parts.

    Raises
    ------
    ValueError
        If a part has fewer values; the message contains both numbers.
    """
    from_end(dim)
    if not 0 <= min(before, after) <= max(before, after) <= x.shape[dim]:
        raise ValueError(
            f"a halo of {before} values before and {after} after is longer than a part, which has "
            f"{x.shape[dim]}"
        )
    if over.size == 1:
        n = x.shape[dim]
        return torch.cat([x.narrow(dim, n - before, before), x, x.narrow(dim, 0, after)], dim)
    return linear(
        x,
        lambda part: _with_neighbours(part, dim, before, after, over),
        lambda part: _folded(part, dim, before, after, over),
    )


def rolled(x: Tensor, dim: int, shift: int, over: Group) -> Tensor:
    """Apply ``torch.roll`` along the split axis of a tensor that is split over the ranks.

    Sends ``|shift|`` values along the axis, in one exchange in each direction.

    Parameters
    ----------
    x, dim, over
        As for :func:`halo`.
    shift
        Number of places by which values move forward; negative: back.

    Raises
    ------
    ValueError
        If a part has fewer values than the shift; the message contains both numbers.
    """
    if over.size == 1:
        return torch.roll(x, shift, from_end(dim))
    if shift >= 0:
        return halo(x, dim, shift, 0, over).narrow(dim, 0, x.shape[dim])
    return halo(x, dim, 0, -shift, over).narrow(dim, -shift, x.shape[dim])


def _neighbours(over: Group) -> tuple[int, int]:
    return (over.rank - 1) % over.size, (over.rank + 1) % over.size


def _with_neighbours(x: Tensor, dim: int, before: int, after: int, over: Group) -> Tensor:
    previous, following = _neighbours(over)
    n = x.shape[dim]
    of_left, of_right = resized(x.shape, dim, before), resized(x.shape, dim, after)
    exchange = over.begin(x, of_left, of_right)
    # with two ranks both neighbours are the same: messages arrive in the order of sending
    exchange.receive(of_right, following)
    exchange.receive(of_left, previous)
    exchange.send(x.narrow(dim, 0, after), previous)
    exchange.send(x.narrow(dim, n - before, before), following)
    right, left = exchange.wait()
    found = torch.cat([left, x, right], dim)
    exchange.close()
    return found


def _folded(g: Tensor, dim: int, before: int, after: int, over: Group) -> Tensor:
    """Transpose of the halo exchange: add the values of a halo to their originals."""
    previous, following = _neighbours(over)
    n = g.shape[dim] - before - after
    of_left, of_right = resized(g.shape, dim, before), resized(g.shape, dim, after)
    exchange = over.begin(g, of_left, of_right)
    exchange.receive(of_left, following)
    exchange.receive(of_right, previous)
    exchange.send(g.narrow(dim, 0, before), previous)
    exchange.send(g.narrow(dim, before + n, after), following)
    last, first = exchange.wait()
    x = g.narrow(dim, before, n).clone()
    x.narrow(dim, n - before, before).add_(last)
    x.narrow(dim, 0, after).add_(first)
    exchange.close()
    return x
