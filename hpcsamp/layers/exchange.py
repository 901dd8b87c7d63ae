"""Exchanges within a network that lies in parts on the ranks of a group, each with its adjoint.

Taken together, the parts of all ranks are one vector, and an exchange is a linear map of it. Its
backward pass is the exact transpose of this map: with a loss whose derivative by its own part of
the outputs every rank knows, every rank gets the gradient of its own parts of the weights.

    gather        own part -> the whole on every rank      transposed: scatter_sum
    scatter_sum   whole terms -> own part of their sum     transposed: gather
    total         term -> the sum on every rank            transposed: itself
    shared        copies of a parameter -> the same        transposed: total

``dim`` counts from the end (negative), so axes before it are just carried, those of
``torch.func.vmap``, too. All ranks of a group call the same functions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpcsamp.layers.group import Exchange, Group

Lengths = tuple[int, ...]


def gather(x: Tensor, dim: int, over: Group, lengths: Sequence[int] | None = None) -> Tensor:
    """The parts of all ranks, one after the other.

    Sends the own part to each of the others; backward ``(R - 1) / R`` of the whole.

    Parameters
    ----------
    x
        This rank's part.
    dim
        Axis along which the whole is parted, counted from the end.
    over
        The ranks.
    lengths
        Of each rank's part along the axis; None: all are as long as this one's.
    """
    if over.size == 1:
        return x
    return _Gather.apply(x, from_end(dim), over, _lengths(x, dim, over, lengths, "own"))


def scatter_sum(x: Tensor, dim: int, over: Group, lengths: Sequence[int] | None = None) -> Tensor:
    """This rank's part of the sum over the ranks.

    Parameters
    ----------
    x
        This rank's term, of the shape of the whole.
    dim, over, lengths
        As for :func:`gather`; None: parts of equal length.
    """
    if over.size == 1:
        return x
    return _ScatterSum.apply(x, from_end(dim), over, _lengths(x, dim, over, lengths, "whole"))


def total(x: Tensor, over: Group) -> Tensor:
    """The sum over the ranks, on each of them, the same to the bit."""
    return x if over.size == 1 else _Total.apply(x, over)


def shared(x: Tensor, over: Group) -> Tensor:
    """A parameter that all ranks of the group hold; its gradient is the sum of theirs."""
    return x if over.size == 1 else _Shared.apply(x, over)


def from_end(dim: int) -> int:
    """Refuse an axis that is not counted from the end."""
    if dim >= 0:
        raise ValueError(f"dim = {dim}: axes of an exchange are counted from the end, e.g. -1")
    return dim


def _lengths(x: Tensor, dim: int, over: Group, lengths: Sequence[int] | None, kind: str) -> Lengths:
    n = x.shape[dim]
    if lengths is None:
        if kind == "whole" and n % over.size:
            raise ValueError(f"an axis of {n} has no {over.size} equal parts; give their lengths")
        return (n if kind == "own" else n // over.size,) * over.size
    found = tuple(lengths)
    expected = found[over.rank] if kind == "own" else sum(found)
    if len(found) != over.size or n != expected:
        raise ValueError(
            f"parts of lengths {found} for {over.size} ranks: axis {dim} is to be {expected} long "
            f"on rank {over.rank}, got {n}"
        )
    return found


class Coming:
    """Parts of the others, under way to this rank; the own part is there at once.

    Parameters
    ----------
    x
        The own part.
    dim, over, lengths
        As for :func:`gather`.
    """

    def __init__(self, x: Tensor, dim: int, over: Group, lengths: Lengths) -> None:
        self._parts = {over.rank: x}
        self._exchange: Exchange | None = None
        self.order = [over.rank, *over.others]
        if over.size == 1:
            return
        self._exchange = over.begin()
        shape = list(x.shape)
        for rank in over.others:
            shape[dim] = lengths[rank]
            self._parts[rank] = self._exchange.receive(shape, x, rank)
        for rank in over.others:
            self._exchange.send(x, rank)
        self._own = over.rank

    def __getitem__(self, rank: int) -> Tensor:
        """The part of a rank; waits for those of all others if it is not the own one."""
        if self._exchange is not None and rank != self._own:
            self.wait()
        return self._parts[rank]

    def wait(self) -> None:
        """Wait for all of them."""
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange = None


class Leaving:
    """Terms of sums, each under way to the rank that sums it.

    Parameters
    ----------
    shape
        Of the own sum.
    like
        A tensor of its type and device.
    over
        The ranks.
    """

    def __init__(self, shape: Sequence[int], like: Tensor, over: Group) -> None:
        self._over = over
        self._terms: dict[int, Tensor] = {}
        self._exchange = over.begin() if over.size > 1 else None
        self.order = [*over.others, over.rank]
        for rank in over.others if self._exchange else ():
            self._terms[rank] = self._exchange.receive(shape, like, rank)  # type: ignore[union-attr]

    def put(self, rank: int, term: Tensor) -> None:
        """This rank's term of the sum of a rank, its own last."""
        if rank == self._over.rank:
            self._terms[rank] = term
        elif self._exchange is not None:
            self._exchange.send(term, rank)

    def sum(self) -> Tensor:
        """The own sum, in the order of the ranks."""
        if self._exchange is None:
            return self._terms[self._over.rank]
        self._exchange.wait()
        first, second, *rest = (self._terms[rank] for rank in range(self._over.size))
        found = first + second
        for term in rest:
            found += term
        return found


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dim: int, over: Group, lengths: Lengths) -> Tensor:
        coming = Coming(x, dim, over, lengths)
        return torch.cat([coming[rank] for rank in range(over.size)], dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.dim, ctx.over, ctx.lengths = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return _ScatterSum.apply(g, ctx.dim, ctx.over, ctx.lengths), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _Gather.apply(x.movedim(in_dims[0], 0), *rest), 0


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dim: int, over: Group, lengths: Lengths) -> Tensor:
        parts = x.split(list(lengths), dim)
        leaving = Leaving(parts[over.rank].shape, x, over)
        for rank in leaving.order:
            leaving.put(rank, parts[rank])
        return leaving.sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.dim, ctx.over, ctx.lengths = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return _Gather.apply(g, ctx.dim, ctx.over, ctx.lengths), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _ScatterSum.apply(x.movedim(in_dims[0], 0), *rest), 0


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, over: Group) -> Tensor:
        leaving = Leaving(x.shape, x, over)
        for rank in leaving.order:
            leaving.put(rank, x)
        return leaving.sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.over = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(g, ctx.over), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, over: Group) -> tuple[Tensor, int]:
        return _Total.apply(x.movedim(in_dims[0], 0), over), 0


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, over: Group) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.over = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(g, ctx.over), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, over: Group) -> tuple[Tensor, int]:
        return _Shared.apply(x.movedim(in_dims[0], 0), over), 0
