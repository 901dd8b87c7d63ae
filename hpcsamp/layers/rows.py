"""torch's linear layers and layer norms with outputs that are split over model ranks.

On one rank they are torch's own layers, so that a network has the same initial values and results
as one built from ``torch.nn``, and the same names and shapes in checkpoints. On several ranks, each
rank holds the rows of a weight that belong to its own outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpcsamp.grid.parts import Interval, bounds
from hpcsamp.layers.axis import current
from hpcsamp.layers.blocks import by_rank, in_blocks_of, in_order
from hpcsamp.layers.exchange import Coming, Leaving, gather
from hpcsamp.layers.layer import Divided, Layer
from hpcsamp.layers.norm import LayerNorm
from hpcsamp.layers.product import Split, in_autocast, of_all_samples


def linear(
    inputs: int,
    outputs: int,
    bias: bool = True,
    in_blocks: int = 1,
    out_blocks: int = 1,
    name: str = "a linear layer",
) -> nn.Module:
    """``nn.Linear``, split over the current model axis: see :class:`Rows`.

    Parameters
    ----------
    inputs, outputs, bias
        As for ``nn.Linear``.
    in_blocks, out_blocks
        Numbers of blocks of channels side by side, such as the 3 of queries, keys and values, or
        the 4 of concatenated tokens; a rank holds a part of each block.
    name
        Name of the layer, for messages.
    """
    whole = nn.Linear(inputs, outputs, bias)
    return whole if current().size == 1 else Rows(whole, in_blocks, out_blocks, name)


def last_linear(inputs: int, outputs: int, name: str = "the last layer") -> nn.Module:
    """``nn.Linear`` whose outputs are split over all model ranks: see :class:`Last`."""
    whole = nn.Linear(inputs, outputs)
    return whole if current().size == 1 else Last(whole, name)


def layer_norm(channels: int, blocks: int = 1, name: str = "a layer norm") -> nn.Module:
    """``nn.LayerNorm`` over split channels, in blocks as for :func:`linear`."""
    if current().size == 1:
        return nn.LayerNorm(channels)
    return Norm(channels, blocks=blocks, name=name)


class Norm(LayerNorm):
    """A split layer norm that methods treat like ``nn.LayerNorm``."""

    deterministic = ()
    normalises = True


class Rows(Layer):
    """Linear layer ``y = x W' + b`` with W ``(outputs, inputs)``, split by rows of W.

    Every rank of the channel axis gathers the inputs of the others while it multiplies its own. All
    ranks of the spatial axis need the same rows: each holds a share of them, and gathers the other
    shares at the same time. Nothing that was gathered is kept for the backward pass.

    With R ranks on the channel axis and G on the spatial axis, N tokens and B bytes per value, a
    rank sends::

        forward    N own inputs (R - 1) B, and its share of W and b to G - 1 ranks
        backward   the same of inputs and W again; gradients of the others' inputs, N (inputs - own)
                   B, and of the others' shares of own rows of W and b

    in one exchange forward and two backward for R > 1, two forward and three backward for G > 1.

    Parameters
    ----------
    whole
        The whole layer, which has the initial values.
    in_blocks, out_blocks
        See :func:`linear`.
    name
        Name of the layer, for messages.

    Raises
    ------
    UsageError
        If there are fewer outputs than ranks of the channel axis.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, whole: nn.Linear, in_blocks: int = 1, out_blocks: int = 1, name: str = "a layer"
    ) -> None:
        super().__init__()
        over, other = self.axis.channels, self.axis.space
        self.inputs_per_output = whole.in_features
        self.in_blocks, self.out_blocks = in_blocks, out_blocks
        inputs = Divided(name, "inputs", whole.in_features // in_blocks, over, other)
        self._lengths = inputs.split.lengths
        self._in = in_blocks_of(inputs.split, in_blocks)
        self._out = Divided(name, "outputs", whole.out_features // out_blocks, over, other)
        held = (self._out.held, (0, whole.in_features))
        self.hold("weight", whole.weight.detach(), held, out_blocks)
        if whole.bias is None:
            self.register_parameter("bias", None)
        else:
            self.hold("bias", whole.bias.detach(), held[:1], out_blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., own inputs)`` to ``(..., own outputs)``."""
        shares = in_blocks_of(self._out.shares, self.out_blocks)
        weight = by_rank(self.weight, self._lengths, self.in_blocks)
        y = rows(x.reshape(1, -1, x.shape[-1]), weight[None], self._in, shares)
        y = y.view(*x.shape[:-1], y.shape[-1])
        if self.bias is not None:
            y = y + gather(self.bias, -1, *shares)
        return in_order(y, self._out.shares, self.out_blocks)


class Last(Layer):
    """Linear layer ``y = x W' + b`` at the end of a network: each model rank computes a part of y.

    The inputs of an item are split over the channel axis; ranks of the spatial axis hold the same
    part.
    Exchanges are those of :class:`Rows` for G = 1.

    Attributes
    ----------
    own
        The interval of this rank's outputs, which may be empty.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, whole: nn.Linear, name: str = "the last layer") -> None:
        super().__init__()
        axis = self.axis
        self.inputs_per_output = whole.in_features
        self._in = Divided(name, "inputs", whole.in_features, axis.channels, axis.space).split
        self.own = outputs_of(whole.out_features)
        self.hold("weight", whole.weight.detach(), (self.own, (0, whole.in_features)))
        self.hold("bias", whole.bias.detach(), (self.own,))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., own inputs)`` to ``(..., own outputs)``."""
        alone = Split(self.axis.alone, (self.own[1] - self.own[0],))
        y = rows(x.reshape(1, -1, x.shape[-1]), self.weight[None], self._in, alone)
        return y.view(*x.shape[:-1], y.shape[-1]) + self.bias


def outputs_of(outputs: int) -> Interval:
    """Return the part of the outputs of a :func:`last_linear` that this rank computes."""
    axis = current()
    return bounds(outputs, axis.size)[axis.rank]


def rows(x: Tensor, weight: Tensor, inputs: Split, shares: Split) -> Tensor:
    """Return ``gather(x) @ gather(weight)'``; ranks gather parts while they multiply their own.

    Parameters
    ----------
    x
        ``(k, N, own inputs)``: k products at once.
    weight
        ``(k, share of rows, inputs)``.
    inputs, shares
        Splits of the inputs and of the rows of the weight.

    Returns
    -------
    Tensor
        ``(k, N, rows)``.
    """
    if inputs.over.size == shares.over.size == 1:
        return x @ weight.mT
    x, weight = in_autocast(x, weight)
    y: Tensor = _Rows.apply(x, weight, inputs, shares)
    return y


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, inputs: Split, shares: Split) -> Tensor:
        xs, ws = Coming(x, -1, *inputs), Coming(weight, -2, *shares)
        columns, places = inputs.slices(), shares.slices()
        y = x.new_empty((*x.shape[:-1], sum(shares.lengths)))
        for q in ws.order:
            out = y[..., places[q]]
            for p in xs.order:
                term = xs[p] @ ws[q][..., columns[p]].mT
                out.copy_(term) if p == xs.order[0] else out.add_(term)
        for coming in (xs, ws):
            coming.close()
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.inputs, ctx.shares = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_w = ctx.needs_input_grad[:2]
        columns, places = ctx.inputs.slices(), ctx.shares.slices()
        # all gathers and sums begin, and end, in the same order on all ranks
        ws = Coming(weight, -2, *ctx.shares) if of_x else None
        xs = Coming(x, -1, *ctx.inputs) if of_w else None
        grad_x = grad_w = None
        if ws is not None:
            leaving = Leaving(x, x.shape, -1, *ctx.inputs)
            whole = torch.cat([ws[q] for q in range(len(places))], -2)
            for p in leaving.order:
                leaving.put(p, (g @ whole[..., columns[p]]).contiguous())
            grad_x = leaving.sum()
            ws.close()
        if xs is not None:
            leaving = Leaving(weight, weight.shape, -2, *ctx.shares)
            whole = torch.cat([xs[p] for p in range(len(columns))], -1)
            for q in leaving.order:
                leaving.put(q, g[..., places[q]].mT @ whole)
            grad_w = leaving.sum()
            xs.close()
        return grad_x, grad_w, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, int]:
        """Compute all products of all samples at once."""
        return of_all_samples(_Rows.apply, info.batch_size, in_dims, x, weight, *rest)
