"""Several inputs of a network, which are sliced, stacked and moved like a single tensor.

Methods and strategies receive a batch of inputs as ``x``: a tensor, or an :class:`Inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from hpcsamp.errors import UsageError


class Inputs:
    """Tensors by name with the same items, in place of a single tensor of inputs.

    It has the tensor operations on leading axes, which all its tensors share: ``x[rows]``,
    ``len(x)``, ``x.unbind()``, ``x.flatten(0, 1)``, ``x.expand(k, *x.shape)``. It is a pytree, so
    ``torch.func`` and ``torch.utils.checkpoint`` handle its tensors.

    Parameters
    ----------
    named
        ``(B, ...)`` or ``(k, B, ...)`` tensors, in the order in which the network takes them.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.named = dict(named)

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Apply a function to each of the inputs."""
        return Inputs({name: function(t) for name, t in self.named.items()})

    @property
    def shape(self) -> torch.Size:
        """The leading axes that all tensors have in common."""
        shapes = [t.shape for t in self.named.values()]
        return torch.Size(
            n[0] for n in _while(lambda n: len(set(n)) == 1, zip(*shapes, strict=False))
        )

    def dim(self) -> int:
        """Smallest number of axes of the tensors."""
        return min(t.dim() for t in self.named.values())

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next(iter(self.named.values())).device

    @property
    def is_meta(self) -> bool:
        """Whether the tensors are on the meta device, without values."""
        return any(t.is_meta for t in self.named.values())

    @property
    def requires_grad(self) -> bool:
        """Whether one of the tensors requires gradients."""
        return any(t.requires_grad for t in self.named.values())

    def __len__(self) -> int:
        return len(next(iter(self.named.values())))

    def __getitem__(self, rows: Any) -> Inputs:
        return self.map(lambda t: t[rows])

    def unbind(self) -> tuple[Inputs, ...]:
        """Split along the first axis."""
        rows = [t.unbind() for t in self.named.values()]
        return tuple(
            Inputs(dict(zip(self.named, row, strict=True))) for row in zip(*rows, strict=True)
        )

    def flatten(self, start: int, end: int) -> Inputs:
        """Join leading axes."""
        return self.map(lambda t: t.flatten(start, end))

    def expand(self, *sizes: int) -> Inputs:
        """Replace the leading axes (:attr:`shape`) by others."""
        shared = len(self.shape)
        return self.map(lambda t: t.expand(*sizes, *t.shape[shared:]))

    def detach(self) -> Inputs:
        """Detach the tensors from the graph."""
        return self.map(torch.Tensor.detach)

    def to(self, *arguments: Any, **named: Any) -> Inputs:
        """Move to another device; another type applies to floating-point tensors only."""
        kind = next((a for a in (*arguments, *named.values()) if isinstance(a, torch.dtype)), None)
        if kind is None:
            return self.map(lambda t: t.to(*arguments, **named))
        return self.map(lambda t: t.to(*arguments, **named) if t.is_floating_point() else t)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in self.named.items())
        return f"Inputs({shapes})"


def _while(holds: Callable[[Any], bool], values: Any) -> Iterator[Any]:
    for value in values:
        if not holds(value):
            return
        yield value


register_pytree_node(
    Inputs,
    lambda x: (list(x.named.values()), tuple(x.named)),
    lambda values, names: Inputs(dict(zip(names, values, strict=True))),
    serialized_type_name=f"{__name__}.Inputs",
)


def inputs_of(x: Any, stacked: bool = False) -> Tensor:
    """Return the inputs of a method in the form it uses: a tensor, or :class:`Inputs`.

    Parameters
    ----------
    x
        A tensor, or a dictionary of tensors by name.
    stacked
        Whether inputs have an axis of samples before that of the items.

    Raises
    ------
    UsageError
        If ``x`` is neither, or its tensors differ in the number of items; the message names both.
    """
    if isinstance(x, (Tensor, Inputs)):
        return cast(Tensor, x)
    if not isinstance(x, Mapping):
        raise UsageError(
            f"inputs are a tensor, or a dictionary of tensors by name, not a {type(x).__name__}"
        )
    if not x:
        raise UsageError("inputs are an empty dictionary; a network needs at least one input")
    axes, first = (2, None) if stacked else (1, None)
    for name, value in x.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UsageError(f"inputs are tensors by name; {name!r} is a {type(value).__name__}")
        lead = tuple(value.shape[:axes])
        first = first or (name, lead)
        if len(lead) < axes or lead != first[1]:
            what = "samples and items" if stacked else "items"
            raise UsageError(
                f"inputs {first[0]} and {name} have shapes {tuple(x[first[0]].shape)} and "
                f"{tuple(value.shape)}; they must have the same {what}"
            )
    return cast(Tensor, Inputs(x))


def tensors(x: Any) -> list[Tensor]:
    """Return the tensors of inputs."""
    return list(x.named.values()) if isinstance(x, Inputs) else [x]


def each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to the tensor, or to each of several inputs."""
    return cast(Tensor, x.map(function)) if isinstance(x, Inputs) else function(x)


def number_type(x: Any) -> torch.dtype | None:
    """Type of the first floating-point input; None if all inputs are ids or masks."""
    return next((t.dtype for t in tensors(x) if t.is_floating_point()), None)


def signature(x: Any) -> tuple[Any, ...]:
    """Shapes and types of inputs, by name if there are several."""
    if isinstance(x, Inputs):
        return tuple((name, t.shape, t.dtype) for name, t in x.named.items())
    return x.shape, x.dtype
