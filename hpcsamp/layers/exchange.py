"""Differentiable exchanges within a network that is split over the ranks of a group.

The parts of all ranks together are one vector, and an exchange is a linear map of it. Its backward
pass is the exact transpose of this map: if every rank has the derivative of the loss with respect
to its own part of the outputs, it obtains the gradient of its own parts of the weights.

    gather        own part -> the whole on every rank      transposed: scatter_sum
    scatter_sum   whole terms -> own part of their sum     transposed: gather
    total         term -> the sum on every rank            transposed: itself
    shared        copies of a parameter -> the same        transposed: total

``dim`` counts from the end (negative), so the axes before it are only carried along, including
those of ``torch.func.vmap``. All ranks of a group call the same functions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hpcsamp.layers.group import Exchange, Group

Lengths = tuple[int, ...]


def gather(x: Tensor, dim: int, over: Group, lengths: Sequence[int] | None = None) -> Tensor:
    """Concatenate the parts of all ranks.

    Sends this rank's part to each of the others; backward ``(R - 1) / R`` of the whole.

    Parameters
    ----------
    x
        This rank's part.
    dim
        Axis along which the whole is split, counted from the end.
    over
        The ranks that hold the parts.
    lengths
        Length of each rank's part along the axis; None: all are as long as this one's.
    """
    if over.size == 1:
        return x
    where = (from_end(dim), over, _lengths(x, dim, over, lengths, "own"))
    return linear(x, *_both(_gathered, _scattered, where))


def scatter_sum(x: Tensor, dim: int, over: Group, lengths: Sequence[int] | None = None) -> Tensor:
    """Return this rank's part of the sum over the ranks.

    Parameters
    ----------
    x
        This rank's term, in the shape of the whole.
    dim, over, lengths
        As for :func:`gather`; lengths None: parts of equal length.
    """
    if over.size == 1:
        return x
    where = (from_end(dim), over, _lengths(x, dim, over, lengths, "whole"))
    return linear(x, *_both(_scattered, _gathered, where))


def total(x: Tensor, over: Group) -> Tensor:
    """Return the sum over the ranks, bitwise equal on each of them."""
    return x if over.size == 1 else linear(x, *_both(_totalled, _totalled, (over,)))


def shared(x: Tensor, over: Group) -> Tensor:
    """Return a parameter that all ranks of the group hold; its gradient is the sum of theirs."""
    return x if over.size == 1 else linear(x, _same, partial(_totalled, over=over))


def from_end(dim: int) -> int:
    """Refuse an axis that is not counted from the end."""
    if dim >= 0:
        raise ValueError(f"dim = {dim}: axes of an exchange are counted from the end, e.g. -1")
    return dim


def _lengths(x: Tensor, dim: int, over: Group, lengths: Sequence[int] | None, kind: str) -> Lengths:
    n = x.shape[dim]
    if lengths is None:
        if kind == "whole" and n % over.size:
            raise ValueError(f"an axis of {n} has no {over.size} equal parts; pass their lengths")
        return (n if kind == "own" else n // over.size,) * over.size
    found = tuple(lengths)
    expected = found[over.rank] if kind == "own" else sum(found)
    if len(found) != over.size or n != expected:
        raise ValueError(
            f"parts of lengths {found} for {over.size} ranks: axis {dim} must have length "
            f"{expected} on rank {over.rank}, got {n}"
        )
    return found


class Coming:
    """Parts that other ranks are sending to this one; its own part is available at once.

    Close it when the parts of the others are no longer read.

    Parameters
    ----------
    x
        This rank's part.
    dim, over, lengths
        As for :func:`gather`.
    """

    def __init__(self, x: Tensor, dim: int, over: Group, lengths: Lengths) -> None:
        self._own, self._over = x, over
        self._others: dict[int, Tensor] | None = None
        self._exchange: Exchange | None = None
        self.order = [over.rank, *over.others]
        if over.size == 1:
            return
        exchange = self._exchange = over.begin(x, resized(x.shape, dim, max(lengths)))
        for rank in over.others:
            exchange.receive(resized(x.shape, dim, lengths[rank]), rank)
        exchange.send(x, *over.others)

    def __getitem__(self, rank: int) -> Tensor:
        """Return the tensor of a rank; unless it is this rank, wait until all have arrived."""
        if rank == self._over.rank:
            return self._own
        if self._others is None:
            assert self._exchange is not None
            self._others = dict(zip(self._over.others, self._exchange.wait(), strict=True))
        return self._others[rank]

    def all(self) -> list[Tensor]:
        """Return the parts in the order of the ranks."""
        return [self[rank] for rank in range(self._over.size)]

    def close(self) -> None:
        """Release the parts of the others; wait for them first if they were never read."""
        if self._exchange is not None:
            self[self._over.others[0]]
            self._exchange.close()
            self._others = self._exchange = None


class Leaving:
    """Terms of sums, each being sent to the rank that computes its sum.

    Parameters
    ----------
    like
        A tensor of the type and device of the terms.
    shape
        Shape of the whole terms; its length along ``dim`` does not matter.
    dim, over, lengths
        As for :func:`scatter_sum`.
    """

    def __init__(
        self, like: Tensor, shape: Sequence[int], dim: int, over: Group, lengths: Lengths
    ) -> None:
        self._like, self._over = like, over
        self._shapes = [resized(shape, dim, length) for length in lengths]
        self._own: Tensor | None = None
        self._made: Tensor | None = None
        self._exchange: Exchange | None = None
        self.order = [*over.others, over.rank]
        if over.size == 1:
            return
        # the rank with the shortest part sends most
        shortest = min(range(over.size), key=lengths.__getitem__)
        most = [shape for rank, shape in enumerate(self._shapes) if rank != shortest]
        self._exchange = over.begin(like, *most)
        for rank in over.others:
            self._exchange.receive(self._shapes[over.rank], rank)

    def room(self, rank: int) -> Tensor:
        """Return an uninitialised tensor for the term of a rank's sum."""
        if rank == self._over.rank or self._exchange is None:
            self._made = self._like.new_empty(self._shapes[rank])
            return self._made
        return self._exchange.room(self._shapes[rank])

    def put(self, rank: int, term: Tensor) -> None:
        """Send this rank's term of the sum of ``rank``; call it for this rank itself last."""
        if rank == self._over.rank:
            self._own = term
        elif self._exchange is not None:
            self._exchange.send(term, rank)

    def sum(self) -> Tensor:
        """Return this rank's sum, added in the order of the ranks."""
        assert self._own is not None
        if self._exchange is None:
            return self._own
        terms = dict(zip(self._over.others, self._exchange.wait(), strict=True))
        terms[self._over.rank] = self._own
        into = self._made if self._own is self._made and self._over.rank < 2 else None
        found = summed([terms[rank] for rank in range(self._over.size)], into)
        self._exchange.close()
        return found


def resized(shape: Sequence[int], dim: int, length: int) -> list[int]:
    """Return a shape with the length of one axis replaced."""
    found = list(shape)
    found[dim] = length
    return found


def summed(terms: Sequence[Tensor], into: Tensor | None = None) -> Tensor:
    """Add two or more tensors in order; ``into`` may be one of the first two."""
    first, second, *rest = terms
    found = torch.add(first, second, out=into)
    for term in rest:
        found += term
    return found


Linear = Callable[[Tensor], Tensor]


class _Map(torch.autograd.Function):
    """A linear map of a tensor, and its transpose for the backward pass."""

    @staticmethod
    def forward(x: Tensor, there: Linear, back: Linear) -> Tensor:
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.there, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _Map.apply(g, ctx.back, ctx.there), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _Map.apply(x.movedim(in_dims[0], 0), *rest), 0


def linear(x: Tensor, there: Linear, back: Linear) -> Tensor:
    """Apply a linear map to the parts of all ranks, with its exact transpose as backward pass.

    Parameters
    ----------
    x
        This rank's part.
    there, back
        The map and its transpose, as exchanges of this rank's part; axes count from the end.
    """
    y: Tensor = _Map.apply(x, there, back)
    return y


def _both(there: Callable[..., Tensor], back: Callable[..., Tensor], where: Any) -> list[Linear]:
    return [lambda x: there(x, *where), lambda x: back(x, *where)]


def _gathered(x: Tensor, dim: int, over: Group, lengths: Lengths) -> Tensor:
    coming = Coming(x, dim, over, lengths)
    found = torch.cat(coming.all(), dim)
    coming.close()
    return found


def _scattered(x: Tensor, dim: int, over: Group, lengths: Lengths) -> Tensor:
    parts = x.split(list(lengths), dim)
    leaving = Leaving(x, x.shape, dim, over, lengths)
    for rank in leaving.order:
        leaving.put(rank, parts[rank])
    return leaving.sum()


def _totalled(x: Tensor, over: Group) -> Tensor:
    whole = x[None]
    coming = Coming(whole, 0, over, (1,) * over.size)
    found = summed(coming.all())[0]
    coming.close()
    return found


def _same(x: Tensor) -> Tensor:
    return x.view_as(x)
