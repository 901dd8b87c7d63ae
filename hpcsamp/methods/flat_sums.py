"""Sum the gradients of means and log standard deviations over chunks of samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hpcsamp.methods.accumulate import Accumulator, Outlet
from hpcsamp.methods.normal import BLOCK
from hpcsamp.weights import Layout


class FlatAccumulator(Accumulator):
    """Sums gradients of one chunk of samples after the other, for weights of :meth:`draw`.

    Autograd stops at the samples' weights: at each variable, or at the whole vector if it is small.
    From there the two sums ``d mean += sum_s g_s`` and ``d log_std += sum_s g_s * noise_s`` are
    computed in place while ``g`` is in the cache; the factor ``std``, common to all samples, is
    applied once at the end. If the first chunk is one sample, its sums take the memory of its
    noise and weights, so that a step with one sample allocates nothing else.

    With an outlet, the sums of a variable are passed on in the last backward pass, as soon as its
    gradient has been computed. They then have memory of their own, because autograd may still read
    the weights.

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
        self._outlet: Outlet | None = None
        self._is_last = False

    def send_to(self, outlet: Outlet) -> None:
        """See :meth:`Accumulator.send_to`; the parts are those of :meth:`MeanField.early`."""
        self._outlet = outlet
        mean, log_std = (outlet.sums.get(name) for name in ("mean", "log_std"))
        self._pair = (
            torch.zeros_like(self._mean) if mean is None else mean,
            torch.zeros_like(self._mean) if log_std is None else log_std,
        )

    def last(self) -> None:
        """See :meth:`Accumulator.last`."""
        self._is_last = True

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
        self._noise = noise
        self._whole = self._outlet is None and weights.numel() <= BLOCK
        single = self._outlet is not None and len(weights) == 1  # see strategies/loop.py
        parts = self._parts(weights[0] if single else weights)
        self._leaves = [part.detach().requires_grad_() for part in parts]
        if self._whole:
            return self._layout.named(self._leaves[0])
        values = [leaf[None] for leaf in self._leaves] if single else self._leaves
        return dict(zip(self._layout.names, values, strict=True))

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """Return a tensor ``(..., n)`` as leaves of autograd: whole if small, else by variable."""
        return [flat] if self._whole else self._layout.views(flat)

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradient of the last drawn chunk."""
        assert self._noise is not None, "nothing was drawn since the last backward pass"
        noise, self._noise = self._noise, None
        if self._outlet is not None and self._is_last:
            return self._pass_on(value, upstream, noise, self._outlet)
        count = len(self._leaves)
        found = torch.autograd.grad(
            value, [*self._leaves, *self.parameters], upstream, allow_unused=True
        )
        self._leaves = []
        first = self._pair is None and len(noise) == 1
        if first:
            self._pair, self._buffers = (self._buffers[1][0], noise[0]), self._empty(0)
        parts = [self._parts(t) for t in (noise, *self._totals())]
        if self._outlet is not None and len(noise) == 1:
            found = tuple(None if g is None else g[None] for g in found[:count]) + found[count:]
        for gradient, e, mean, log_std in zip(found[:count], *parts, strict=True):
            if first:
                _set_sums(gradient, mean, log_std)
            elif gradient is not None:
                _add_sums(gradient, e, mean, log_std)
        self._add(found[count:])
        return None

    def _pass_on(
        self, value: Tensor, upstream: Tensor | None, noise: Tensor, outlet: Outlet
    ) -> None:
        """Add the gradient of the last chunk, and pass each variable on when it is complete."""
        parts = [self._layout.views(t) for t in (noise, *self._totals(), self._std)]
        first = 1 if "fixed" in outlet.sums else 0
        left: dict[int, Callable[[Tensor | None], None]] = {}  # variables without a gradient

        def wrote(place: int, gradient: Tensor) -> None:
            left.pop(place)(gradient[None] if len(noise) == 1 else gradient)

        for place, (leaf, *own) in enumerate(zip(self._leaves, *parts, strict=True)):
            left[place] = partial(_complete, outlet, first + place, *own)
            leaf.register_hook(partial(wrote, place))
        others = torch.autograd.grad(
            value, [*self._leaves, *self.parameters], upstream, allow_unused=True
        )[len(self._leaves) :]
        self._leaves = []
        for complete in left.values():  # variables that the value does not depend on
            complete(None)
        self._add(others)
        if first:
            sums = next(iter(super().gradients()), None)
            if sums is not None:
                outlet.sums["fixed"].copy_(sums)
            outlet.complete(0)

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Sums for mean and log_std; zero before the first chunk."""
        if self._pair is None:
            self._pair = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        return self._pair

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of mean, log_std, fixed in this order, without frozen ones.

        Empty if they were passed to an outlet.
        """
        if self._outlet is not None:
            return []
        mean, log_std = self._totals()
        both = mean, log_std.mul_(self._std)
        own = [d for d, learns in zip(both, self._learning, strict=True) if learns]
        return [*own, *super().gradients()]


def _complete(
    outlet: Outlet,
    part: int,
    noise: Tensor,
    mean: Tensor,
    log_std: Tensor,
    std: Tensor,
    gradient: Tensor | None,
) -> None:
    """Add the last gradient of a variable to its sums, and pass them on."""
    if gradient is not None:
        _add_sums(gradient, noise, mean, log_std)
    log_std.mul_(std)
    outlet.complete(part)


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
