"""Count the operations of a forward and backward pass of one sample without computing it.

The network runs on tensors without values. Matrix products and convolutions are counted by torch's
own counter, and every operation that creates a tensor by the bytes it reads and writes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from hpcsamp.errors import UsageError
from hpcsamp.layers import ALONE, ModelAxis
from hpcsamp.weights.calling import Single


def _added(_: Any, a: Any, b: Any, *, out_shape: Any, **__: Any) -> int:
    """FLOP of ``out += a @ b`` from the shapes of its arguments."""
    return int(2 * math.prod(a) * b[-1])


IN_PLACE = {torch.ops.aten.addmm_: _added, torch.ops.aten.baddbmm_: _added}
"""Products that torch's counter does not include."""


@dataclass(frozen=True)
class OperationCounts:
    """Operation counts of one forward and backward pass of one sample: ``base + per_item * items``.

    Attributes
    ----------
    flops, moved
        Floating-point operations of matrix products and convolutions; bytes read and written by all
        operations. Pairs ``(base, per_item)``.
    operations
        Number of operations, which on a GPU are kernel launches.
    exchanges, sent
        For a model-parallel network: number of exchanges with the other model ranks, and the bytes
        that this rank sends in them, as a pair.
    """

    flops: tuple[float, float]
    moved: tuple[float, float]
    operations: int
    exchanges: int = 0
    sent: tuple[float, float] = (0.0, 0.0)

    def flops_of(self, items: int) -> float:
        """FLOP of a pass over ``items`` items."""
        return self.flops[0] + self.flops[1] * items

    def moved_of(self, items: int) -> float:
        """Bytes moved in a pass over ``items`` items."""
        return self.moved[0] + self.moved[1] * items

    def sent_of(self, items: int) -> float:
        """Bytes that a model rank sends to the others in a pass over ``items`` items."""
        return self.sent[0] + self.sent[1] * items


EMPTY = ("aten::empty", "aten::new_empty")
"""Prefixes of the names of operations that allocate memory without writing it."""


class Operations(TorchDispatchMode):
    """Counts operations that write to memory, and the bytes they access."""

    def __init__(self) -> None:
        super().__init__()
        self.number = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        made = [t for t in tree_iter(out) if isinstance(t, torch.Tensor)]
        storages = {t.untyped_storage()._cdata for t in given}
        own = any(t.untyped_storage()._cdata not in storages for t in made)
        name = func._schema.name
        if (own and not name.startswith(EMPTY)) or name.endswith("_"):  # views are not counted
            self.number += 1
            self.moved += sum(t.numel() * t.element_size() for t in [*given, *made])
        return out


def count(
    network: nn.Module,
    x_shape: Sequence[int] | Callable[[int], torch.Tensor],
    item: int = 4,
    inputs: torch.dtype = torch.float32,
    axis: ModelAxis = ALONE,
    *,
    later: bool = False,
) -> OperationCounts:
    """Count the operations of a network on the meta device; the network is not changed.

    Parameters
    ----------
    x_shape
        Shape of an item; or a function that creates a given number of items on the meta device.
    item
        Bytes per value: 4, 8, or 2 if autocast halves the bytes moved.
    inputs
        Type of the inputs.
    axis
        The imagined model axis along which the network was built; the counts are then those of one
        of its ranks.
    later
        Whether the input is the output of an earlier step of a rollout, so that it needs a gradient
        as the weights do.

    Raises
    ------
    UsageError
        If the network cannot run without values.
    """

    def batch(items: int) -> torch.Tensor:
        if callable(x_shape):
            return x_shape(items)
        return torch.empty((items, *x_shape), dtype=inputs, device="meta")

    single = Single(network)
    try:
        two, four = (_once(single, batch(b), axis, later) for b in (2, 4))
    except Exception as e:  # a user-defined network may depend on values
        raise UsageError(
            f"the operations of {type(network).__name__} cannot be counted without values: "
            f"{type(e).__name__}: {e}; measure it with hpcsamp bench calibrate"
        ) from e

    def pair(at_two: float, at_four: float, factor: float = 1.0) -> tuple[float, float]:
        each = (at_four - at_two) / 2
        return (at_two - 2 * each) * factor, each * factor

    return OperationCounts(
        pair(two.flops, four.flops),
        pair(two.moved, four.moved, item / 4),
        four.operations,
        four.exchanges,
        pair(two.sent, four.sent, item / 4),
    )


class _Found(NamedTuple):
    flops: float
    moved: float
    operations: int
    exchanges: int
    sent: float


def _once(network: nn.Module, x: torch.Tensor, axis: ModelAxis, later: bool) -> _Found:
    network = copy.deepcopy(network)
    weights = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}
    wanted = list(weights.values())
    if later:
        wanted.append(x.requires_grad_())
        x = x.clone()  # torch's counter takes no leaves as inputs of modules
    operations = Operations()
    exchanges, sent = axis.counted.exchanges, axis.counted.bytes
    flops = FlopCounterMode(display=False, custom_mapping=IN_PLACE)
    with flops, operations:
        y = functional_call(network, weights, (x,))
        torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)
    return _Found(
        float(flops.get_total_flops()),
        float(operations.moved),
        operations.number,
        axis.counted.exchanges - exchanges,
        float(axis.counted.bytes - sent),
    )
