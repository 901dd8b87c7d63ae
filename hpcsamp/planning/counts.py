"""What a forward and backward pass of one sample consists of, counted without computing it.

The network runs on tensors without values; matrix products and convolutions are counted by torch's
own counter, and every operation that makes a tensor by the bytes it reads and writes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from hpcsamp.errors import UsageError
from hpcsamp.weights.calling import Single


@dataclass(frozen=True)
class Counts:
    """Of one forward and backward pass of one sample, as ``base + per_item * items``.

    Attributes
    ----------
    flops, moved
        Floating-point operations of matrix products and convolutions; bytes that operations read
        and write. Pairs ``(base, per_item)``.
    operations
        How many operations there are: launches on a GPU.
    """

    flops: tuple[float, float]
    moved: tuple[float, float]
    operations: int

    def flops_of(self, items: int) -> float:
        """FLOP of a pass."""
        return self.flops[0] + self.flops[1] * items

    def moved_of(self, items: int) -> float:
        """Bytes of a pass."""
        return self.moved[0] + self.moved[1] * items


class Operations(TorchDispatchMode):
    """Counts operations that write something, and the bytes they touch."""

    def __init__(self) -> None:
        super().__init__()
        self.number = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and count."""
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        made = [t for t in tree_iter(out) if isinstance(t, torch.Tensor)]
        storages = {t.untyped_storage()._cdata for t in given}
        own = any(t.untyped_storage()._cdata not in storages for t in made)
        if own or func._schema.name.endswith("_"):  # not a view
            self.number += 1
            self.moved += sum(t.numel() * t.element_size() for t in [*given, *made])
        return out


def count(
    network: nn.Module,
    x_shape: Sequence[int] | Callable[[int], torch.Tensor],
    item: int = 4,
    inputs: torch.dtype = torch.float32,
) -> Counts:
    """Counts of a network on the meta device; it stays as it is.

    Parameters
    ----------
    x_shape
        Shape of an item; or a function that makes so many items on the meta device.
    item
        Bytes of a number: 4, 8, or 2 where autocast halves what moves.
    inputs
        Type of the inputs.

    Raises
    ------
    UsageError
        If the network does not run without values.
    """

    def batch(items: int) -> torch.Tensor:
        if callable(x_shape):
            return x_shape(items)
        return torch.empty((items, *x_shape), dtype=inputs, device="meta")

    single = Single(network)
    try:
        (f2, m2, _), (f4, m4, operations) = (_once(single, batch(b)) for b in (2, 4))
    except Exception as e:  # a network of the user's own may look at values
        raise UsageError(
            f"{type(network).__name__} cannot be counted without values: {type(e).__name__}: {e}; "
            f"measure it with hpcsamp bench calibrate"
        ) from e
    per_flop, per_byte = (f4 - f2) / 2, (m4 - m2) / 2 * item / 4
    return Counts(
        (f2 - 2 * per_flop, per_flop),
        (m2 * item / 4 - 2 * per_byte, per_byte),
        operations,
    )


def _once(network: nn.Module, x: torch.Tensor) -> tuple[float, float, int]:
    network = copy.deepcopy(network)
    weights = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}
    operations = Operations()
    with FlopCounterMode(display=False) as flops, operations:
        y = functional_call(network, weights, (x,))
        torch.autograd.grad(y, list(weights.values()), torch.ones_like(y), allow_unused=True)
    return float(flops.get_total_flops()), float(operations.moved), operations.number
