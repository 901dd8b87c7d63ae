"""Normalise ``k`` samples, each by the mean and variance of its whole batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.data_group import DataGroupLike


class ChannelMoments(NamedTuple):
    """Mean and variance of each channel.

    Attributes
    ----------
    mean, variance
        ``(k, C)``; the biased variance of the batch, with divisor ``number``.
    number
        Number of values per channel from which the moments were computed.
    """

    mean: Tensor
    variance: Tensor
    number: float


def moments(x: Tensor) -> ChannelMoments:
    """Return the moments of a tensor ``(k, B, C, ...)``, without gradient."""
    x = x.detach()
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(wide, _axes(x), correction=0)
    return ChannelMoments(mean, variance, x.numel() / max(1, x.shape[0] * x.shape[2]))


def moments_over(group: DataGroupLike, own: ChannelMoments) -> ChannelMoments:
    """Return the moments over the batches of a whole data group, in one exchange.

    Counts, means and sums of centred squares are combined by the formula of Chan, Golub and LeVeque
    (1983): a plain sum of squares loses all digits where the mean is large.
    """
    count = torch.tensor([own.number], dtype=torch.float64, device=own.mean.device)
    mean = own.mean.double().reshape(-1)
    squares = own.variance.double().reshape(-1) * own.number
    gathered = group.gathered(torch.cat([count, mean, squares]))
    counts, means, squares = gathered[:, :1], *gathered[:, 1:].chunk(2, dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    kind, shape = own.mean.dtype, own.mean.shape
    return ChannelMoments(mean.to(kind).view(shape), variance.to(kind).view(shape), float(total))


def in_one(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ChannelMoments] | None:
    """Normalise a tensor ``(k, B, C, ...)`` by its own moments; return both, in one pass.

    ``weight``, ``bias``: ``(C,)`` for a single sample; None for several samples. The result is None
    if types are mixed, or if a channel has a single value.
    """
    k, channels = x.shape[0], x.shape[2]
    number = x.numel() / max(1, k * channels)
    kinds = {t.dtype for t in (x, weight, bias) if t is not None}
    if number <= 1 or kinds not in ({torch.float32}, {torch.float64}):
        return None
    mean, variance = x.new_zeros(2, k * channels).unbind()  # torch stores the moments here
    y = F.batch_norm(
        _as_channels(x), mean, variance, weight, bias, training=True, momentum=1.0, eps=eps
    )
    biased = variance * ((number - 1) / number)
    return _as_samples(y, k), ChannelMoments(mean.view(k, -1), biased.view(k, -1), number)


def by_own_batch(x: Tensor, eps: float) -> Tensor:
    """Normalise a tensor ``(k, B, C, ...)`` by the moments of this batch, with gradient."""
    return _as_samples(F.batch_norm(_as_channels(x), None, None, training=True, eps=eps), len(x))


def _as_channels(x: Tensor) -> Tensor:
    """Reshape a tensor ``(k, B, C, ...)`` to ``(B, k C, ...)``."""
    return x[0] if len(x) == 1 else x.transpose(0, 1).flatten(1, 2)


def _as_samples(y: Tensor, k: int) -> Tensor:
    """Reshape a tensor ``(B, k C, ...)`` to ``(k, B, C, ...)``."""
    return y[None] if k == 1 else y.unflatten(1, (k, -1)).transpose(0, 1)


def by_moments(x: Tensor, found: ChannelMoments, eps: float) -> Tensor:
    """Normalise a tensor ``(k, B, C, ...)`` by given moments, which are constants."""
    shape = (found.mean.shape[0], 1, found.mean.shape[1], *[1] * (x.dim() - 3))
    scale = (found.variance + eps).rsqrt().view(shape)
    return ((x - found.mean.view(shape)) * scale).to(x.dtype)


def by_whole_batch(x: Tensor, found: ChannelMoments, eps: float, group: DataGroupLike) -> Tensor:
    """Normalise a tensor ``(k, B, C, ...)`` by the moments of the batch of a data group.

    The backward pass sums the gradients with respect to the moments over the D data groups (unlike
    for sums over samples, whose backward pass is the identity by design law 2). With the gradient
    ``g`` of D times the mean loss over groups,

        dx = (g - mean(g) - y mean(g y)) / std,        means over the items of all groups.
    """
    y: Tensor = _OverGroup.apply(x, found, eps, group)
    return y


class _OverGroup(torch.autograd.Function):
    # in two parts, as vmap may call it too, where nothing distinguishes the samples yet
    @staticmethod
    def forward(x: Tensor, found: ChannelMoments, eps: float, group: DataGroupLike) -> Tensor:
        return by_moments(x, found, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, found, eps, group = inputs
        ctx.save_for_backward(output, (found.variance + eps).rsqrt())
        ctx.count, ctx.group = found.number, group

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        raise NotImplementedError("its inputs already have a samples axis")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (g,) = grads
        y, scale = ctx.saved_tensors
        axes = _axes(y)
        kind = torch.promote_types(y.dtype, torch.float32)
        sums = torch.stack([g.sum(axes, dtype=kind), (g * y).sum(axes, dtype=kind)]).double()
        ctx.group.sum_(sums)
        shape = (y.shape[0], 1, y.shape[2], *[1] * (y.dim() - 3))
        ones, own = (sums / ctx.count).to(kind).view(2, *shape)
        return ((g - ones - y * own) * scale.view(shape)).to(g.dtype), None, None, None


def _axes(x: Tensor) -> list[int]:
    """All axes except those of samples and channels."""
    return [1, *range(3, x.dim())]
