"""Observe whether the memory of weights may be used again within a backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

CHANGE = -2.0
"""Factor that changes weights, exactly and reversibly."""


class LateReads:
    """Whether a network reads weights in its backward pass after their gradient is complete.

    It does if an operation keeps weights without their gradient (``w.detach()``) for that of
    another input. Observed in two more backward passes of the first graph: in the second one,
    weights are changed as soon as their gradient is complete, which must not change gradients.

    Parameters
    ----------
    known
        The answer, if graphs cannot be passed again; None: observe it.
    """

    def __init__(self, known: bool | None = None) -> None:
        self._found = known

    def found(self, leaves: Sequence[Tensor], value: Tensor, upstream: Tensor | None) -> bool:
        """Return whether it does.

        Parameters
        ----------
        leaves
            The weights as leaves of the graph.
        value, upstream
            Output of a graph that may be passed again, and its gradient if it is not a scalar.
        """
        if self._found is None:
            self._found = self._observed(leaves, value, upstream)
        return self._found

    def _observed(self, leaves: Sequence[Tensor], value: Tensor, upstream: Tensor | None) -> bool:
        def gradients() -> Sequence[Tensor | None]:
            return torch.autograd.grad(
                value, leaves, upstream, retain_graph=True, allow_unused=True
            )

        usual, alike, changed = gradients(), [True], list[Tensor]()

        def arrived(place: int, gradient: Tensor) -> Tensor:
            first = usual[place]
            alike.append(first is not None and _alike(first, gradient))
            changed.append(leaves[place].data.mul_(CHANGE))  # unseen by autograd
            return gradient.new_zeros(()).expand_as(gradient)  # which autograd keeps instead

        hooks = [leaf.register_hook(partial(arrived, i)) for i, leaf in enumerate(leaves)]
        try:
            gradients()
        finally:
            for hook in hooks:
                hook.remove()
            for weights in changed:
                weights.div_(CHANGE)
        return not all(alike)


def _alike(a: Tensor, b: Tensor) -> bool:
    limit = math.sqrt(torch.finfo(a.dtype).eps) * float(a.abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=limit, equal_nan=True)
