"""Exact layer normalisation over channels that are split over the model ranks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from hpcsamp.layers.blocks import in_blocks_of, in_order
from hpcsamp.layers.exchange import Coming, gather, summed
from hpcsamp.layers.layer import Divided, Layer
from hpcsamp.layers.product import Split


class LayerNorm(Layer):
    """Layer normalisation of every token over all of its channels.

    Each rank computes mean and variance of its own channels; those of all ranks are combined by
    Chan's formula, which loses no digits where means are large. For each token a rank sends two
    values to each of the other ranks of the channel axis, and as many in the backward pass; weight
    and bias are gathered over the spatial axis.

    Parameters
    ----------
    channels
        Number of channels of a token.
    eps
        Added to the variance.
    blocks
        Number of blocks of channels side by side; a rank holds a part of each block.
    name
        Name of the layer, for messages.
    """

    deterministic: ClassVar[tuple[str, ...]] = ("weight", "bias")
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self, channels: int, eps: float = 1e-5, blocks: int = 1, name: str = "a layer norm"
    ) -> None:
        super().__init__()
        self.channels, self.eps, self.blocks = channels, eps, blocks
        over, other = self.axis.channels, self.axis.space
        self._divided = Divided(name, "channels", channels // blocks, over, other)
        self.hold("weight", torch.ones(channels), (self._divided.held,), blocks)
        self.hold("bias", torch.zeros(channels), (self._divided.held,), blocks)

    def _own(self, parameter: Tensor) -> Tensor:
        """Gather a parameter for this rank's channels; each rank holds a share of it."""
        shares = self._divided.shares
        whole = gather(parameter, -1, *in_blocks_of(shares, self.blocks))
        return in_order(whole, shares, self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., own channels)`` to the same shape."""
        weight, bias = (self._own(p) for p in (self.weight, self.bias))
        if self.axis.channels.size == 1:
            return F.layer_norm(x, (self.channels,), weight, bias, self.eps)
        x = x.to(weight.dtype)
        split = in_blocks_of(self._divided.split, self.blocks)
        flat = x.reshape(1, -1, x.shape[-1])
        y: Tensor = _Norm.apply(flat, weight[None], bias[None], split, self.eps)[0]
        return y.view(x.shape)


class _Norm(torch.autograd.Function):
    """Layer-normalise n tokens whose channels are split over ranks.

    This rank has channels ``(s, n, c)`` of them, and weight and bias ``(s, c)``.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, split: Split, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # first normalised by the rank's own channels only, in one pass over them
        tiny = torch.finfo(x.dtype).tiny
        normal, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, tiny)
        coming = Coming(
            torch.cat([mean, inverse], -1)[..., None, :], -2, split.over, (1,) * split.over.size
        )
        means, inverses = torch.cat(coming.all(), -2).unbind(-1)
        coming.close()
        counts = means.new_tensor(split.lengths)
        total = counts.sum()
        overall = (means * counts).sum(-1, keepdim=True) / total
        squares = counts * (inverses.pow(-2) + (means - overall).square())
        scale = (squares.sum(-1, keepdim=True) / total + eps).rsqrt()
        torch.addcmul((mean - overall) * scale, normal, scale / inverse, out=normal)
        return torch.addcmul(bias[:, None], normal, weight[:, None]), normal, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, weight, _, ctx.split, _ = inputs
        _, normal, scale = output
        ctx.mark_non_differentiable(normal, scale)
        ctx.save_for_backward(normal, scale, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        normal, scale, weight = ctx.saved_tensors
        column, over = weight[..., None], ctx.split.over
        product = g * normal
        # sums over the channels of g w and g w normal, of this rank and then of all
        own = torch.cat([g @ column, product @ column], -1)
        coming = Coming(own[..., None, :], -2, over, (1,) * over.size)
        of_weight, of_bias = product.sum(1), g.sum(1)
        torch.mul(g, weight[:, None], out=product)
        sums = summed([part[..., 0, :] for part in coming.all()]) / -sum(ctx.split.lengths)
        coming.close()
        product.addcmul_(normal, sums[..., 1:])
        return torch.addcmul(sums[..., :1] * scale, product, scale), of_weight, of_bias, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor, *rest: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
        """Evaluate all samples in one call, with them on the first axis."""
        many = info.batch_size

        def beside(t: Tensor, dim: int | None) -> Tensor:
            t = t.expand(many, *t.shape) if dim is None else t.movedim(dim, 0)
            return t.flatten(0, 1)

        operands = (beside(t, d) for t, d in zip((x, weight, bias), in_dims[:3], strict=True))
        found = _Norm.apply(*operands, *rest)
        return tuple(t.unflatten(0, (many, -1)) for t in found), (0, 0, 0)
