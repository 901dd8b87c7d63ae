"""Draws from normal distributions over flat weights, their gradients, and KL divergences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.weights import Layout

#: Number of elements that elementwise chains process at once, so that temporaries fit the cache.
BLOCK = 1 << 17

Prior = tuple[float, float] | None
Span = tuple[int, int, Prior]


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


class FlatAccumulator(Accumulator):
    """Sums gradients of one chunk of samples after the other, for weights of :meth:`draw`.

    Autograd stops at the samples' weights: at each variable, or at the whole vector if it is small.
    From there the two sums ``d mean += sum_s g_s`` and ``d log_std += sum_s g_s * noise_s`` are
    computed in place while ``g`` is in the cache; the factor ``std``, common to all samples, is
    applied once at the end. If the first chunk is one sample, its sums take the memory of its
    noise and weights, so that a step with one sample allocates nothing else.

    Parameters
    ----------
    mean, log_std, std, fixed
        ``(n,)``, and ``(m,)`` or None.
    layout
        Layout of the variables in the flat weights.
    """

    def __init__(
        self,
        mean: nn.Parameter,
        log_std: nn.Parameter,
        std: Tensor,
        fixed: nn.Parameter | None,
        layout: Layout,
    ) -> None:
        super().__init__([] if fixed is None else [fixed])
        self._mean, self._std = mean.detach(), std
        self._learning = mean.requires_grad, log_std.requires_grad
        self._layout = layout
        self._pair: tuple[Tensor, Tensor] | None = None
        self._buffers = self._empty(0)  # noise and weights of a chunk
        self._leaves: list[Tensor] = []
        self._whole = False
        self._noise: Tensor | None = None

    def noise(self, count: int) -> Tensor:
        """Return ``(k, n)`` memory for the noise of the next chunk; overwrites the last noise."""
        if len(self._buffers[0]) < count:
            self._buffers = self._empty(count)
        return self._buffers[0][:count]

    def _empty(self, count: int) -> tuple[Tensor, Tensor]:
        noise = self._mean.new_empty(count, self._layout.size)
        return noise, torch.empty_like(noise)

    def draw(self, noise: Tensor) -> dict[str, Tensor]:
        """Return ``(k, *shape)`` weights of the next chunk by name; overwrites the last weights.

        ``noise``: ``(k, n)``, in the memory of :meth:`noise`.
        """
        weights = self._buffers[1][: len(noise)]
        torch.addcmul(self._mean, self._std, noise, out=weights)
        self._noise, self._whole = noise, weights.numel() <= BLOCK
        self._leaves = [part.detach().requires_grad_() for part in self._parts(weights)]
        if self._whole:
            return self._layout.named(self._leaves[0])
        return dict(zip(self._layout.names, self._leaves, strict=True))

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """Return a tensor ``(..., n)`` as leaves of autograd: whole if small, else by variable."""
        return [flat] if self._whole else self._layout.views(flat)

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradient of the last drawn chunk."""
        assert self._noise is not None, "nothing was drawn since the last backward pass"
        noise, self._noise = self._noise, None
        count = len(self._leaves)
        found = torch.autograd.grad(
            value, [*self._leaves, *self.parameters], upstream, allow_unused=True
        )
        self._leaves = []
        first = self._pair is None and len(noise) == 1
        if first:
            self._pair, self._buffers = (self._buffers[1][0], noise[0]), self._empty(0)
        parts = [self._parts(t) for t in (noise, *self._totals())]
        for gradient, e, mean, log_std in zip(found[:count], *parts, strict=True):
            if first:
                _set_sums(gradient, mean, log_std)
            elif gradient is not None:
                _add_sums(gradient, e, mean, log_std)
        self._add(found[count:])

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Sums for mean and log_std; zero before the first chunk."""
        if self._pair is None:
            self._pair = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        return self._pair

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of mean, log_std, fixed in this order, without frozen ones."""
        mean, log_std = self._totals()
        both = mean, log_std.mul_(self._std)
        own = [d for d, learns in zip(both, self._learning, strict=True) if learns]
        return [*own, *super().gradients()]


def _set_sums(gradient: Tensor | None, mean: Tensor, noise: Tensor) -> None:
    """Write the ``(1, *shape)`` gradient of a sample to ``mean``, and multiply its noise by it."""
    if gradient is None:
        mean.zero_()
        noise.zero_()
        return
    mean.copy_(gradient[0])
    noise.mul_(gradient[0])


def _add_sums(gradient: Tensor, noise: Tensor, mean: Tensor, log_std: Tensor) -> None:
    """Add sums over ``(k, *shape)`` gradients, and over gradients times noise, to the totals."""
    if len(gradient) > 1 and gradient.numel() <= BLOCK:  # few operations
        mean.add_(gradient.sum(0))
        log_std.add_((gradient * noise).sum(0))
        return
    for one, e in zip(gradient, noise, strict=True):  # without temporaries of this size
        mean.add_(one)
        log_std.addcmul_(one, e)


class Divergence(torch.autograd.Function):
    """KL divergence of ``N(mean, exp(log_std)^2)`` from its prior, in nats, over spans.

    torch_blue's divergences: for a prior ``N(m, v^2)``, per weight
    ``log(v / std) + (std^2 + (mean - m)^2) / (2 v^2) - 1/2``, for a flat prior ``-log_std - 1/2``.
    Value and gradients are computed together, block by block in the cache, in the memory of the
    gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_std: Tensor, spans: Sequence[Span], wanted: bool
    ) -> Tensor:
        """Return a scalar; a span is ``(start, stop, (mean, log std) of the prior)``, None if flat.

        ``wanted``: whether gradients are needed.
        """
        whole = sum(stop - start for start, stop, _ in spans) == len(mean)
        make = torch.empty_like if whole else torch.zeros_like
        d_mean, d_log_std = make(mean), make(log_std)
        values = [
            _divergence(mean[block], log_std[block], prior, d_mean[block], d_log_std[block])
            for block, prior in _blocks(spans)
        ]
        ctx.gradients = (d_mean, d_log_std) if wanted else None
        total = sum(values[1:], values[0]) if values else mean.new_zeros(())
        return total.to(mean.dtype)

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
            for block, prior in _blocks(spans):
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
            for block, prior in _blocks(ctx.spans):
                if prior is None:
                    continue
                drawn = std[block] * noise[block]
                pull = (mean[block] + drawn - prior[0]) * (scale / math.exp(2 * prior[1]))
                d_mean[block] += pull
                d_log_std[block].addcmul_(pull, drawn)
        return d_mean, d_log_std.sub_(sum(upstream)), None, None, None


def _blocks(spans: Sequence[Span]) -> Iterator[tuple[slice, Prior]]:
    """Split the spans into blocks that fit the cache."""
    for start, stop, prior in spans:
        for lo in range(start, stop, BLOCK):
            yield slice(lo, min(lo + BLOCK, stop)), prior


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
