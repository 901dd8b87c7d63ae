"""Observe whether the memory of weights may be used again within a backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class LateReads:
    """Whether a network reads weights in its backward pass after their gradient is complete.

    It does if an operation keeps weights without their gradient (``w.detach()``) for that of
    another input. Observed in two more backward passes of the first graph: in the second one,
    weights are overwritten as soon as their gradient is complete, which must not change gradients.

    Parameters
    ----------
    known
        The answer, if graphs cannot be passed again; None: observe it.
    """

    def __init__(self, known: bool | None = None) -> None:
        self._found = known

    def found(
        self, flat: Tensor, leaves: Sequence[Tensor], value: Tensor, upstream: Tensor | None
    ) -> bool:
        """Return whether it does.

        Parameters
        ----------
        flat
            Memory of the weights.
        leaves
            The weights as leaves of the graph.
        value, upstream
            Output of a graph that may be passed again, and its gradient if it is not a scalar.
        """
        if self._found is None:
            self._found = self._observed(flat, leaves, value, upstream)
        return self._found

    def _observed(
        self, flat: Tensor, leaves: Sequence[Tensor], value: Tensor, upstream: Tensor | None
    ) -> bool:
        def gradients() -> Sequence[Tensor | None]:
            return torch.autograd.grad(
                value, leaves, upstream, retain_graph=True, allow_unused=True
            )

        usual, before = gradients(), flat.clone()
        hooks = [leaf.register_hook(lambda _, own=leaf: _clear(own)) for leaf in leaves]
        try:
            others = gradients()
        finally:
            for hook in hooks:
                hook.remove()
            flat.copy_(before)
        pairs = [(a, b) for a, b in zip(usual, others, strict=True) if a is not None]
        return not all(b is not None and _alike(a, b) for a, b in pairs)


def _clear(leaf: Tensor) -> None:
    """Overwrite weights, unseen by autograd."""
    leaf.data.zero_()


def _alike(a: Tensor, b: Tensor) -> bool:
    limit = math.sqrt(torch.finfo(a.dtype).eps) * float(a.abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=limit, equal_nan=True)
