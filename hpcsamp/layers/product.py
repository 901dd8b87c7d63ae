"""Matrix product of split operands; ranks exchange parts while they multiply their own.

    y = scatter_sum(a @ gather(b))

``b`` is gathered over one group of ranks; the product is summed over another group, and each rank
of that group keeps a part of the sum. There are two kinds:

    INNER   rows of b are gathered, which are contracted with columns of a; columns of y are kept
    OUTER   columns of b are gathered, which become columns of y; rows of y are kept

Nothing received from another rank is kept for the backward pass: b is gathered again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpcsamp.layers.exchange import Coming, Leaving, Lengths
from hpcsamp.layers.group import Group


class Kind(Enum):
    """Kind of product: the axis of ``b`` that is gathered, and that of ``y`` that is scattered.

    Axes are counted from the end.
    """

    INNER = (-2, -1)
    OUTER = (-1, -2)


class Split(NamedTuple):
    """Split of an axis over the ranks of a group: the length of each rank's part."""

    over: Group
    lengths: Lengths

    def slices(self) -> list[slice]:
        """Slice of the axis for each rank."""
        stops = [sum(self.lengths[: i + 1]) for i in range(len(self.lengths))]
        return [slice(b - n, b) for b, n in zip(stops, self.lengths, strict=True)]


def product(a: Tensor, b: Tensor, gathered: Split, kept: Split, kind: Kind) -> Tensor:
    """Return ``scatter_sum(a @ gather(b))``.

    Forward, one exchange for each group of more than one rank; backward, one for the gradient of y
    (if ``kept`` has several ranks), and two for b (if ``gathered`` has): b itself, if a needs a
    gradient, and the gradient of b, if b needs one.

    Parameters
    ----------
    a
        ``(k, m, r)``: k products at once, with all rows and columns that this rank multiplies.
    b
        ``(k, r, n)``, with this rank's part along the gathered axis.
    gathered, kept
        Splits of the gathered axis of ``b`` and of the scattered axis of ``y``.
    kind
        Kind of the product, which defines these axes.

    Returns
    -------
    Tensor
        ``(k, m, n)``, with this rank's part along the scattered axis.
    """
    if gathered.over.size == kept.over.size == 1:
        return a @ b
    a, b = in_autocast(a, b)
    y: Tensor = _Product.apply(a, b, gathered, kept, kind)
    return y


def in_autocast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Convert operands of a product to the type of autocast, if it is on."""
    device = a.device.type
    # tensors without values have no autocast
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return a.to(dtype), b.to(dtype)
    return a, b


def of_all_samples(
    apply: Callable[..., Tensor],
    samples: int,
    dims: Sequence[int | None],
    a: Tensor,
    b: Tensor,
    *rest: Any,
) -> tuple[Tensor, int]:
    """The vmap rule of products ``(k, ...)`` of two operands: one call for all samples.

    Parameters
    ----------
    apply
        Computes the products of ``(k, ...)`` operands.
    samples
        Number of samples.
    dims
        The axis of the samples in each operand, None if it is the same for all.
    a, b, rest
        The operands, and other arguments.
    """

    def spread(x: Tensor, dim: int | None) -> Tensor:
        x = x.expand(samples, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    y = apply(spread(a, dims[0]), spread(b, dims[1]), *rest)
    return y.unflatten(0, (samples, -1)), 0


ALL = slice(None)
Index = tuple[Any, ...]


def _places(gathered: Split, kept: Split, kind: Kind) -> Callable[[int, int], tuple[Index, ...]]:
    """Indices into a, b_q and y_p for the product of kept part p and gathered part q."""
    inner, ps, qs = kind is Kind.INNER, kept.slices(), gathered.slices()

    def at(p: int, q: int) -> tuple[Index, ...]:
        if inner:
            return (..., ALL, qs[q]), (..., ALL, ps[p]), (..., ALL, ALL)
        return (..., ps[p], ALL), (..., ALL, ALL), (..., ALL, qs[q])

    return at


def _add(out: Tensor, x: Tensor, y: Tensor, first: bool) -> None:
    """``out += x @ y`` for ``k`` matrices; ``first``: overwrite ``out`` instead."""
    if len(out) == 1:
        out[0].addmm_(x[0], y[0], beta=0 if first else 1)
    else:
        out.baddbmm_(x, y, beta=0 if first else 1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, gathered: Split, kept: Split, kind: Kind) -> Tensor:
        along, across = kind.value
        at, inner = _places(gathered, kept, kind), kind is Kind.INNER
        width = b.shape[-1] if inner else sum(gathered.lengths)
        shape = (len(a), a.shape[1], width)
        bs = Coming(b, along, *gathered)
        leaving = Leaving(a, shape, across, *kept)
        for p in leaving.order:
            term = leaving.room(p)
            for q in bs.order:
                in_a, in_b, in_y = at(p, q)
                _add(term[in_y], a[in_a], bs[q][in_b], not inner or q == bs.order[0])
            leaving.put(p, term)
        bs.close()
        return leaving.sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, ctx.gathered, ctx.kept, ctx.kind = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        gathered, kept, (along, across) = ctx.gathered, ctx.kept, ctx.kind.value
        of_a, of_b = ctx.needs_input_grad[:2]
        at, inner = _places(gathered, kept, ctx.kind), ctx.kind is Kind.INNER
        gs = Coming(g, across, *kept)
        grad_a = torch.empty_like(a) if of_a else None
        bs = Coming(b, along, *gathered) if of_a else None
        p_own, q_own = kept.over.rank, gathered.over.rank

        def add_a(p: int, q: int) -> None:
            if grad_a is not None and bs is not None:
                in_a, in_b, in_y = at(p, q)
                first = p == p_own if inner else q == q_own
                _add(grad_a[in_a], gs[p][in_y], bs[q][in_b].mT, first)

        add_a(p_own, q_own)  # while all exchanges are in flight
        grad_b = leaving = None
        if of_b:
            leaving = Leaving(b, b.shape, along, *gathered)
            for q in leaving.order:
                term = leaving.room(q)
                for p in gs.order:
                    in_a, in_b, in_y = at(p, q)
                    _add(term[in_b], a[in_a].mT, gs[p][in_y], inner or p == p_own)
                leaving.put(q, term)
        for p in gs.order:
            for q in bs.order if bs is not None else ():
                if (p, q) != (p_own, q_own):
                    add_a(p, q)
        if bs is not None:
            bs.close()
        gs.close()
        if leaving is not None:
            grad_b = leaving.sum()
        return grad_a, grad_b, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, int]:
        """Compute all products of all samples at once."""
        return of_all_samples(_Product.apply, info.batch_size, in_dims, a, b, *rest)
