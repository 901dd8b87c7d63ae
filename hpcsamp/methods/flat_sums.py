"""Sum the gradients of means and log standard deviations over chunks of samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from hpcsamp.methods.accumulate import Accumulator, Outlet
from hpcsamp.methods.late_reads import LateReads
from hpcsamp.methods.normal import BLOCK, block_of
from hpcsamp.weights import Layout

GRAIN = 1 << 15
"""Sections that are drawn at once begin at multiples of this number, those of blocks of noise."""

Fill = Callable[[Tensor, int], Tensor]
"""Function that fills a ``(k, m)`` tensor with the noise of the weights from an index on."""


class FlatAccumulator(Accumulator):
    """Sums gradients of one chunk of samples after the other, for weights of :meth:`draw`.

    Autograd stops at the samples' weights: at each variable, or at the whole vector if it is small.
    From there the two sums ``d mean += sum_s g_s`` and ``d log_std += sum_s g_s * (w_s - mean)``
    are computed in place as soon as the gradient ``g`` of a variable is complete, and ``g`` is
    freed. All sums lie in one tensor, in the order of the parameters. If the first chunk is one
    sample, its weights and their deviations from the means are drawn in the memory of the sums,
    so that a step with one sample needs no other memory of this size.

    With an outlet, the sums of a variable are passed on in the last backward pass, as soon as its
    gradient has been computed. The outlet has memory for them.

    Parameters
    ----------
    mean, log_std, fixed
        ``(n,)``, and ``(m,)`` or None.
    layout
        Layout of the variables in the flat weights.
    reads
        What is known of the network.
    """

    def __init__(
        self,
        mean: nn.Parameter,
        log_std: nn.Parameter,
        fixed: nn.Parameter | None,
        layout: Layout,
        reads: LateReads,
    ) -> None:
        super().__init__([] if fixed is None else [fixed])
        self._mean, self._log_std = mean.detach(), log_std.detach()
        self._learning = mean.requires_grad, log_std.requires_grad
        self._layout, self._reads = layout, reads
        self._fixed = 0 if fixed is None else len(fixed)
        self._rest = self._mean[:0]  # memory for the sums of ``fixed``
        self._pair: tuple[Tensor, Tensor] | None = None
        self._buffers = (self._mean[:0],) * 2  # weights of a chunk, and their deviations
        self._drawn: tuple[Tensor, Tensor] | None = None
        self._leaves: list[Tensor] = []
        self._whole = self._in_sums = False
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

    def draw(self, count: int, fill: Fill) -> dict[str, Tensor]:
        """Return ``(k, *shape)`` weights of the next chunk by name; overwrites the last weights."""
        self._in_sums = self._pair is None and count == 1
        if self._in_sums:
            weights, deviations = (t[None] for t in self._new_sums())
        else:
            weights, deviations = self._memory(count)
        size = max(block_of(weights) // count, len(self._mean) if weights.numel() <= BLOCK else 1)
        size = -(-size // GRAIN) * GRAIN
        for lo in range(0, len(self._mean), size):
            part = slice(lo, lo + size)
            fill(deviations[:, part], lo).mul_(self._log_std[part].exp())
            torch.add(deviations[:, part], self._mean[part], out=weights[:, part])
        self._drawn = weights, deviations
        self._whole = self._outlet is None and weights.numel() <= BLOCK
        single = count == 1 and not self._whole  # see strategies/loop.py
        parts = self._parts(weights[0] if single else weights)
        # with versions of their own, so that autograd does not see that a sum was written to
        self._leaves = [part.data.requires_grad_() for part in parts]
        if self._whole:
            return self._layout.named(self._leaves[0])
        values = [leaf[None] for leaf in self._leaves] if single else self._leaves
        return dict(zip(self._layout.names, values, strict=True))

    def _memory(self, count: int) -> tuple[Tensor, Tensor]:
        weights, deviations = self._buffers
        if len(weights) < count or not weights.numel():
            weights = self._mean.new_empty(count, len(self._mean))
            self._buffers = weights, deviations = weights, torch.empty_like(weights)
        return weights[:count], deviations[:count]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """Return a tensor ``(..., n)`` as leaves of autograd: whole if small, else by variable."""
        return [flat] if self._whole else self._layout.views(flat)

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradient of the last drawn chunk."""
        assert self._drawn is not None, "nothing was drawn since the last backward pass"
        deviations, leaves = self._drawn[1], self._leaves
        self._drawn, self._leaves = None, []
        waits = self._in_sums and self._reads.found(leaves, value, upstream)
        parts = [self._parts(t) for t in (deviations, *self._totals())]
        left = dict(enumerate(zip(*parts, strict=True)))  # sums that wait for a gradient

        def arrived(place: int, gradient: Tensor) -> Tensor:
            self._receive(place, gradient, *left.pop(place))
            increment_version(leaves[place])  # whoever reads these weights now is refused
            return gradient.new_zeros(()).expand_as(gradient)  # which autograd keeps instead

        hooks = [
            leaf.register_hook(partial(arrived, place))
            for place, leaf in enumerate([] if waits else leaves)
        ]
        found = torch.autograd.grad(value, [*leaves, *self.parameters], upstream, allow_unused=True)
        for hook in hooks:
            hook.remove()  # because they refer to the leaves
        for place, own in left.items():  # without a gradient if the network does not use them
            self._receive(place, found[place] if waits else None, *own)
        self._in_sums = False
        self._add(found[len(leaves) :])
        outlet = self._outlet
        if outlet is not None and self._is_last and "fixed" in outlet.sums:
            sums = next(iter(super().gradients()), None)
            if sums is not None:
                outlet.sums["fixed"].copy_(sums)
            outlet.complete(0)

    def _receive(
        self, place: int, gradient: Tensor | None, deviation: Tensor, mean: Tensor, log_std: Tensor
    ) -> None:
        """Add the gradient of a variable to its sums, and pass them on if it is the last one."""
        if gradient is not None and gradient.dim() == mean.dim():
            gradient = gradient[None]
        if self._in_sums:
            _set_sums(gradient, mean, log_std)
        elif gradient is not None:
            _add_sums(gradient, deviation, mean, log_std)
        outlet = self._outlet
        if outlet is not None and self._is_last:
            outlet.complete(place + (1 if "fixed" in outlet.sums else 0))

    def _new_sums(self) -> tuple[Tensor, Tensor]:
        """Allocate the sums of mean, log_std and fixed in one tensor."""
        n = len(self._mean)
        mean, log_std, self._rest = self._mean.new_empty(2 * n + self._fixed).split(
            [n, n, self._fixed]
        )
        self._pair = mean, log_std
        return self._pair

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Sums for mean and log_std; zero before the first chunk."""
        if self._pair is None:
            for sums in self._new_sums():
                sums.zero_()
        assert self._pair is not None
        return self._pair

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients of mean, log_std, fixed in this order, without frozen ones.

        Empty if they were passed to an outlet.
        """
        if self._outlet is not None:
            return []
        both = self._totals()
        own = [d for d, learns in zip(both, self._learning, strict=True) if learns]
        found = list[Tensor | None](own)
        for sums in super().gradients():
            found.append(self._rest.zero_() if sums is None else self._rest.copy_(sums))
        return found


def _set_sums(gradient: Tensor | None, mean: Tensor, deviation: Tensor) -> None:
    """Write the ``(1, *shape)`` gradient of a sample to ``mean``; multiply its deviation by it."""
    if gradient is None:
        mean.zero_()
        deviation.zero_()
        return
    deviation.mul_(gradient[0])
    mean.copy_(gradient[0])


def _add_sums(gradient: Tensor, deviation: Tensor, mean: Tensor, log_std: Tensor) -> None:
    """Add sums over ``(k, *shape)`` gradients, and over gradients times deviations, to totals."""
    if len(gradient) > 1 and gradient.numel() <= BLOCK:  # few operations
        mean.add_(gradient.sum(0))
        log_std.add_((gradient * deviation).sum(0))
        return
    for one, e in zip(gradient, deviation, strict=True):  # without temporaries of this size
        mean.add_(one)
        log_std.addcmul_(one, e)
