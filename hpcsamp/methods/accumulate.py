"""Sum gradients over chunks of samples, without keeping the graph of more than one chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Outlet(Protocol):
    """Receives parts of a gradient that are complete before the others.

    Attributes
    ----------
    sums
        Memory of the sums by name of the parameter, initially 0; without frozen parameters.
    """

    sums: Mapping[str, Tensor]

    def complete(self, part: int) -> None:
        """Record that a part of the gradient will not change any more, see :meth:`Method.early`."""


class Accumulator:
    """Back-propagates scalars or outputs one at a time and sums the parameters' gradients.

    Nothing is written to ``.grad``; the caller decides how the sum is used.

    Parameters
    ----------
    parameters
        Parameters with respect to which gradients are taken.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self._sums: list[Tensor | None] = [None] * len(self.parameters)

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradient of ``value`` (times ``upstream``, if it is not a scalar)."""
        self._add(torch.autograd.grad(value, self.parameters, upstream, allow_unused=True))

    def send_to(self, outlet: Outlet) -> None:
        """Pass each part of the sums to an outlet as soon as it is complete.

        Called before the first chunk; only for methods that have parts, see :meth:`Method.early`.
        """
        raise NotImplementedError

    def last(self) -> None:
        """Called before the last backward pass."""

    def skip(self) -> None:
        """Join a collective draw of the sample group when this rank has no samples left."""

    def skip_backward(self) -> None:
        """Join a collective backward pass when this rank has no samples left."""

    def _add(self, new: Sequence[Tensor | None]) -> None:
        for i, (total, gradient) in enumerate(zip(self._sums, new, strict=True)):
            if gradient is not None:
                self._sums[i] = gradient if total is None else total.add_(gradient)

    def gradients(self) -> list[Tensor | None]:
        """Return the sums, one per parameter; None if no value depended on the parameter."""
        return self._sums
