"""Memory of a forward and backward pass, determined without computing or allocating anything.

The network runs on torch's fake tensors, which have shapes and types but no values; storages are
counted as they are created and freed. So everything that a network does (checkpointing, autocast,
fused attention) is included, in less than a second for a hundred million weights.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hpcsamp.layers import ModelAxis
from hpcsamp.layers.axis import ALONE
from hpcsamp.layers.imagined import ImaginedGroup
from hpcsamp.weights.calling import Single
from hpcsamp.weights.complex_parts import complex_of, convert, parts_of
from hpcsamp.weights.inputs import each, tensors

SMALL = 250_000
"""Largest number of weights, and of values in a batch, for which a real pass takes less time than
importing torch's kernels for tensors without values, which also import its compiler.
"""


class LargestMemory(TorchDispatchMode):
    """Counts the bytes of all live storages that operations create.

    Parameters
    ----------
    known
        Existing tensors, which are not counted; views of them are not counted either.

    Attributes
    ----------
    live, largest
        Current number of bytes, and the maximum so far.
    """

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.live = self.largest = 0
        self._apart = False
        self._known = {t.untyped_storage()._cdata for t in known}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Prevent torch from importing its compiler, in order to hide this mode from it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record its output."""
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._note(value.untyped_storage())
        return out

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within the block, new storages are not counted."""
        before, self._apart = self._apart, True
        try:
            yield
        finally:
            self._apart = before

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, 0 if self._apart else storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.largest = max(self.largest, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def pass_bytes(
    network: nn.Module,
    x_shape: Sequence[int] | Callable[[int], torch.Tensor],
    batch: int,
    *,
    inputs: torch.dtype | None = None,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    rough: bool = False,
    axis: ModelAxis = ALONE,
    freed: bool = False,
) -> int:
    """Peak memory in bytes of one forward and backward pass of one sample.

    Includes activations, temporaries and the gradient with respect to the flat vector of all
    weights, but neither the weights nor the inputs.

    Parameters
    ----------
    network
        Network on the meta device; it is not changed.
    x_shape, batch
        Shape of an item and number of items; or a function that creates a batch on the meta device.
    inputs
        Type of the inputs; None for the type of the weights.
    dtype, autocast
        Type of the weights; and type used in autocast, or None.
    rough
        Compute an upper bound in a fraction of the time (fake tensors take seconds to import):
        attention stores its weights, and there is no autocast. A small network runs on zeros.
    axis
        Imagined model axis along which the network is built. Messages between its ranks lie in
        shared memory and are not included.
    freed
        Whether the gradient of a weight is freed as soon as it is complete, instead of being joined
        with the others.
    """
    weights = sum(p.numel() for p in network.parameters())
    network = Single(copy.deepcopy(network))
    convert(network, dtype)
    x = (
        x_shape(batch)
        if callable(x_shape)
        else torch.empty((batch, *x_shape), dtype=inputs or dtype, device="meta")
    )
    if rough and weights <= SMALL and sum(t.numel() for t in tensors(x)) <= SMALL:
        with torch.random.fork_rng(devices=[]):  # dropout
            zeros = each(lambda t: torch.zeros(t.shape, dtype=t.dtype), x)
            return _largest(network, zeros, dtype, None, axis, freed)
    if rough:
        return _largest(network, x, dtype, None, axis, freed)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        return _largest(
            network.to_empty(device="cpu"),
            each(lambda t: torch.empty_like(t, device="cpu"), x),
            dtype,
            autocast,
            axis,
            freed,
        )


def _largest(
    network: nn.Module,
    x: torch.Tensor,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    axis: ModelAxis,
    freed: bool,
) -> int:
    held = dict(network.named_parameters())
    sizes = [parts_of(p).numel() for p in held.values()]
    flat = torch.zeros(sum(sizes), dtype=dtype, device=x.device, requires_grad=True)
    buffers = {
        name: torch.zeros(b.shape, dtype=b.dtype, device=x.device)
        for name, b in network.named_buffers()
    }
    with LargestMemory(flat, *tensors(x), *buffers.values()) as memory:
        for group in axis.groups:
            if isinstance(group, ImaginedGroup):
                group.apart = memory.apart
        leaves: Sequence[torch.Tensor] = [flat]
        own: Sequence[torch.Tensor] = flat.split(sizes)
        if freed:
            own = leaves = [part.detach().requires_grad_() for part in own]
            for leaf in leaves:
                leaf.register_hook(lambda g: g.new_zeros(()).expand_as(g))
        parts = zip(held.items(), own, strict=True)
        weights = {
            name: complex_of(part.view(*p.shape, 2)) if p.is_complex() else part.view(p.shape)
            for (name, p), part in parts
        }
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            y = functional_call(network, weights | buffers, (x,))
        upstream = torch.ones_like(y)
        torch.autograd.grad(_Loss.apply(y, upstream), leaves, allow_unused=True)
    return memory.largest


class _Loss(torch.autograd.Function):
    """A scalar with a given gradient.

    Passing the gradient to ``torch.autograd.grad`` instead would make torch import sympy.
    """

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(upstream)
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.saved_tensors[0], None
