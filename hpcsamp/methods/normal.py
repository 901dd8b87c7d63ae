"""Draws from normal distributions over flat weights, and KL divergences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

#: Number of elements that elementwise chains process at once, so that temporaries fit the cache.
BLOCK = 1 << 17
#: The same on a GPU, where a block costs kernel launches, and temporaries only memory.
GPU_BLOCK = 1 << 22

Prior = tuple[float, float] | None
Span = tuple[int, int, Prior]
T = TypeVar("T")


def section(
    spans: Iterable[tuple[int, int, T]], start: int, stop: int, first: int = 0
) -> list[tuple[int, int, T]]:
    """Return the parts of spans in a section of the vector, as positions relative to ``first``."""
    cut = ((max(a, start) - first, min(b, stop) - first, prior) for a, b, prior in spans)
    return [(a, b, prior) for a, b, prior in cut if a < b]


class NormalDraw(torch.autograd.Function):
    """``mean + std * noise`` for ``(k, n)`` noise, in one operation.

    ``std`` is ``exp(log_std)``, computed by the caller once for all samples.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Return ``(k, n)`` weights."""
        ctx.save_for_backward(std, noise)
        return torch.addcmul(mean, std, noise)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return ``d mean = g`` and ``d log_std = g * noise * std``, summed over samples."""
        (grad,) = grads
        std, noise = ctx.saved_tensors
        if len(grad) == 1:
            return grad[0], (grad[0] * noise[0]).mul_(std), None, None
        return grad.sum(0), (grad * noise).sum(0).mul_(std), None, None


class Divergence(torch.autograd.Function):
    """KL divergence of ``N(mean, exp(log_std)^2)`` from its prior, in nats, over spans.

    torch_blue's divergences: for a prior ``N(m, v^2)``, per weight
    ``log(v / std) + (std^2 + (mean - m)^2) / (2 v^2) - 1/2``, for a flat prior ``-log_std - 1/2``.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_std: Tensor, spans: Sequence[Span], wanted: bool
    ) -> Tensor:
        """Return a scalar; a span is ``(start, stop, (mean, log std) of the prior)``, None if flat.

        ``wanted``: whether gradients are needed.
        """
        ctx.gradients = (torch.zeros_like(mean), torch.zeros_like(log_std)) if wanted else None
        return add_divergence(mean, log_std, spans, ctx.gradients or (None, None))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of the forward pass, scaled."""
        (scale,) = grads
        d_mean, d_log_std = ctx.gradients
        ctx.gradients = None
        return d_mean.mul_(scale), d_log_std.mul_(scale), None, None


class LogRatio(torch.autograd.Function):
    """``log q(w_s) - log p(w_s)`` of ``w_s = mean + std * noise_s``, ``(s,)`` in nats.

    With noise ``e`` and a prior ``N(m, v)`` this is the sum over weights of
    ``log(v / std) + ((w - m)^2 / v^2 - e^2) / 2``, for a flat prior of ``-log std - e^2 / 2``.
    The densities are those of torch_blue's ``log_prob`` without the ``eps`` that it adds to
    variances, so the mean over draws is :class:`Divergence`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mean: Tensor,
        log_std: Tensor,
        std: Tensor,
        noises: Callable[[], Iterable[Tensor]],
        spans: Sequence[Span],
    ) -> Tensor:
        """``noises()`` iterates over ``(n,)`` noise of each sample, the same in each call."""
        ctx.save_for_backward(mean, std)
        ctx.noises, ctx.spans = noises, spans
        constant = -log_std.sum(dtype=torch.float64)
        for start, stop, prior in spans:
            if prior is not None:
                constant = constant + prior[1] * (stop - start)
        values = []
        for noise in noises():
            value = constant.clone()
            for block, prior in blocks(spans):
                e = noise[block]
                square = -(e * e)
                if prior is not None:
                    z = (torch.addcmul(mean[block], std[block], e) - prior[0]) / math.exp(prior[1])
                    square = torch.addcmul(square, z, z)
                value += 0.5 * square.sum(dtype=torch.float64)
            values.append(value)
        return torch.stack(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Return ``d mean = (w - m) / v^2`` and ``d log_std = (w - m) / v^2 * std * e - 1``."""
        mean, std = ctx.saved_tensors
        upstream = grads[0].tolist()
        d_mean, d_log_std = torch.zeros_like(mean), torch.zeros_like(mean)
        for noise, scale in zip(ctx.noises(), upstream, strict=True):
            for block, prior in blocks(ctx.spans):
                if prior is None:
                    continue
                drawn = std[block] * noise[block]
                pull = (mean[block] + drawn - prior[0]) * (scale / math.exp(2 * prior[1]))
                d_mean[block] += pull
                d_log_std[block].addcmul_(pull, drawn)
        return d_mean, d_log_std.sub_(sum(upstream)), None, None, None


@torch.no_grad()
def add_divergence(
    mean: Tensor,
    log_std: Tensor,
    spans: Sequence[Span],
    sums: tuple[Tensor | None, Tensor | None],
    factor: float = 1.0,
) -> Tensor:
    """Return the :class:`Divergence`, and add ``factor`` times its gradients to ``(n,)`` sums.

    Value and gradients are computed together, block by block in the cache. ``sums`` are those of
    ``mean`` and ``log_std``; None where no gradient is needed.
    """
    values = []
    for block, prior in blocks(spans, block_of(mean)):
        found = torch.empty_like(mean[block]), torch.empty_like(log_std[block])
        values.append(_divergence(mean[block], log_std[block], prior, *found))
        for total, gradient in zip(sums, found, strict=True):
            if total is not None:
                total[block].add_(gradient, alpha=factor)
    total = sum(values[1:], values[0]) if values else mean.new_zeros(())
    return total.to(mean.dtype)


def block_of(x: Tensor) -> int:
    """Return the number of elements that an elementwise chain processes at once on a device."""
    return BLOCK if x.device.type == "cpu" else GPU_BLOCK


def blocks(spans: Iterable[tuple[int, int, T]], size: int = BLOCK) -> Iterator[tuple[slice, T]]:
    """Split the spans into blocks that fit the cache."""
    for start, stop, prior in spans:
        for lo in range(start, stop, size):
            yield slice(lo, min(lo + size, stop)), prior


def _divergence(
    mean: Tensor,
    log_std: Tensor,
    prior: Prior,
    d_mean: Tensor,
    d_log_std: Tensor,
) -> Tensor:
    """Divergence of a block; its gradients are written to ``d_mean`` and ``d_log_std``."""
    if prior is None:
        from torch_blue.vi.analytical_kl_loss import UniformNormalDivergence

        d_mean.zero_()
        d_log_std.fill_(-1)
        return UniformNormalDivergence.forward(None, mean, log_std)  # includes a constant
    centre, inverse = prior[0], math.exp(-prior[1])
    ratio = torch.sub(log_std, prior[1], out=d_log_std)  # log(std / prior std)
    square = torch.mul(ratio, 2).exp_()
    z = torch.mul(mean, inverse, out=d_mean)
    if centre:
        z.sub_(centre * inverse)
    terms = torch.addcmul(square, z, z).sub_(ratio, alpha=2)
    value = terms.sum(dtype=torch.float64).sub_(mean.numel()).mul_(0.5)
    d_mean.mul_(inverse)
    torch.sub(square, 1, out=d_log_std)
    return value
