"""Record inputs and outputs of the submodules of a module in a pass, to compare passes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

#: Number of values of an item that are recorded in each submodule.
NUMBERS = 4096

Evaluate = Callable[[slice], Tensor]
"""Function that returns ``(n, ...)`` outputs of some of the items."""


@dataclass
class Record:
    """Record of a pass: its outputs, and some values of each submodule's inputs and outputs.

    Attributes
    ----------
    output
        ``(n, ...)``.
    calls
        Name, inputs and outputs ``(n, k)`` of the submodules, in the order in which they ended.
    """

    output: Tensor
    calls: list[tuple[str, list[Tensor], list[Tensor]]] = field(default_factory=list)

    def followed_by(self, other: Record) -> Record:
        """Return the record of a pass with the items of both records."""
        calls = []
        if [(n, len(i), len(o)) for n, i, o in self.calls] == [
            (n, len(i), len(o)) for n, i, o in other.calls
        ]:
            calls = [
                (name, _joined(ins, others[1]), _joined(outs, others[2]))
                for (name, ins, outs), others in zip(self.calls, other.calls, strict=True)
            ]
        return Record(torch.cat([self.output, other.output]), calls)

    def rows(self, item: int) -> Record:
        """Return the record of the output of one item."""
        return Record(self.output[item : item + 1])

    def apart(self, other: Record) -> float:
        """Largest difference of the outputs of two passes, relative to the largest output."""
        if self.output.shape != other.output.shape:
            return math.inf
        return difference([self.output], [other.output])

    def sorted_apart(self, other: Record) -> float:
        """Largest relative difference of the submodules' outputs, ignoring the order of values."""
        pairs = zip(self.calls, other.calls, strict=False)
        return max(
            (difference(_sorted(a), _sorted(b), [*ins, *a]) for (_, ins, a), (_, _, b) in pairs),
            default=0.0,
        )

    def suspects(self, other: Record, tolerance: float) -> Iterator[tuple[str, float]]:
        """Submodules with equal inputs but different outputs, and the relative difference.

        The module's own outputs may hide the difference, e.g. if its last layer starts with zeros.
        """
        for (name, ins, outs), (also, other_ins, other_outs) in zip(
            self.calls, other.calls, strict=False
        ):
            if name and name == also and ins and difference(ins, other_ins) <= tolerance:
                found = difference(outs, other_outs, [*ins, *outs])
                if found > tolerance:
                    yield name, found


def recorded(network: nn.Module, evaluate: Evaluate, items: slice, only: str = "") -> Record:
    """Record a pass of some items, without its graph.

    ``only``: record all values of this submodule, and none of the others.
    """
    count = items.stop - items.start
    most = NUMBERS if not only else sys.maxsize
    stack: list[list[Tensor]] = []
    calls: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def begin(_: str, inputs: Any) -> None:
        stack.append(list(_rows(inputs, count, most)))

    def end(name: str, output: Any) -> None:
        calls.append((name, stack.pop(), list(_rows(output, count, most))))

    with hooked(network, begin, end, only):
        output = evaluate(items).detach()
    return Record(output, calls)


@contextmanager
def hooked(
    network: nn.Module,
    begin: Callable[[str, Any], None],
    end: Callable[[str, Any], None],
    only: str = "",
) -> Iterator[None]:
    """Context that calls ``begin`` with each submodule's name and inputs, ``end`` with outputs."""
    handles = []
    for name, part in network.named_modules():
        if only and name != only:
            continue

        def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            begin(name, (args, kwargs))

        def after(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
            end(name, output)

        handles += [
            part.register_forward_pre_hook(before, with_kwargs=True),
            part.register_forward_hook(after),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(value: Any, items: int, most: int) -> Iterator[Tensor]:
    """Iterate over ``(items, k)`` values of each float tensor whose first axis is the batch's."""
    if isinstance(value, Tensor):
        if (
            value.is_floating_point()
            and not value.is_nested  # its items have different sizes
            and value.dim() > 0
            and len(value) > 0
            and len(value) % items == 0
        ):
            flat = value.detach().reshape(items, -1)
            yield flat[:, :: -(-flat.shape[1] // most)].double() if flat.shape[1] else flat
    elif isinstance(value, dict):
        for v in value.values():
            yield from _rows(v, items, most)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _rows(v, items, most)


def _joined(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [torch.cat(pair) if pair[0].shape[1:] == pair[1].shape[1:] else pair[0]
            for pair in zip(a, b, strict=True)]  # fmt: skip


def difference(a: list[Tensor], b: list[Tensor], like: list[Tensor] | None = None) -> float:
    """Largest difference, relative to the largest value of ``like`` (default: of both)."""
    scale = max((_largest(t) for t in (like or [*a, *b])), default=0.0)
    worst = 0.0
    for one, other in zip(a, b, strict=False):
        if one.shape != other.shape:
            continue
        x, y = (t if t.is_floating_point() or t.is_complex() else t.double() for t in (one, other))
        apart = bound(x - y)
        if not math.isfinite(apart):  # or if values are so large that their difference overflows
            x, y = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (x, y))
            if not torch.equal(x.isfinite(), y.isfinite()):
                return math.inf
            apart = _largest(x - y)
        worst = max(worst, apart / scale if scale > 0 else apart)
    return worst


def _sorted(values: list[Tensor]) -> list[Tensor]:
    return [v.flatten().sort().values for v in values]


def _largest(x: Tensor) -> float:
    """Largest absolute value of the finite values."""
    most = bound(x)
    if math.isfinite(most):
        return most
    finite = x[x.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def bound(x: Tensor) -> float:
    """Largest absolute value, in one pass over the values; not finite if one of them is not."""
    if not x.numel():
        return 0.0
    low, high = (x.abs() if x.is_complex() else x).aminmax()
    return max(abs(float(low)), abs(float(high)), key=lambda v: (math.isnan(v), v))
