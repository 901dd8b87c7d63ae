"""Call a module with one or several inputs, and pack its outputs into one tensor.

A network may take its inputs by name and return a tuple, a dictionary or a dataclass of tensors.
Between a module and a loss, outputs are always one tensor: several outputs are packed into
``(B, n)``, so that samples, exchanges and gradients handle one form only; a loss of several outputs
unpacks them by :class:`Outputs`.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import is_tensor_like

from hpcsamp.errors import UsageError
from hpcsamp.weights.inputs import Inputs
from hpcsamp.weights.strategies.chunk import NotPossibleError

_clock = itertools.count()


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Layout of the outputs of a module in the tensor they are packed into.

    Attributes
    ----------
    shapes
        Shape ``(...)`` of an item by the output's name, in order. The outputs of a tuple are called
        ``"0"``, ``"1"``, ...; those within an output are called ``"outer.inner"``.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def names(self) -> list[str]:
        """Names of the outputs, in order."""
        return list(self.shapes)

    def split(self, outputs: Tensor, targets: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Unpack ``(..., n)`` outputs into views ``(..., *shape)`` by name.

        Parameters
        ----------
        targets
            Names of the outputs to return; outputs of a tuple get them in order.

        Raises
        ------
        UsageError
            If the outputs have other names; the message lists both.
        """
        named = self._all(outputs)
        if targets is None:
            return named
        if set(targets) <= set(named):
            return {name: named[name] for name in targets}
        if all(name.isdecimal() for name in named) and len(named) == len(targets):
            return dict(zip(targets, named.values(), strict=True))
        raise UsageError(
            f"the network has the outputs {', '.join(named)}, but the targets are "
            f"{', '.join(targets)}"
        )

    def _all(self, outputs: Tensor) -> dict[str, Tensor]:
        parts = outputs.split([math.prod(s) for s in self.shapes.values()], -1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class Caller:
    """A module as a function of one tensor, or of :class:`Inputs`, that returns one tensor.

    Several inputs are passed by name if the module's ``forward`` takes arguments of all these
    names, otherwise by position in their order, unless an input would then be passed as another
    argument. A module that passes its inputs on to another module refers to that module in an
    attribute ``takes_inputs_of``.

    Parameters
    ----------
    module
        Any module.
    plain
        Function applied to each tensor that the module returns.

    Attributes
    ----------
    outputs
        Layout of several outputs in the last call; None if there was one output, which is returned
        unchanged.
    time
        Number of the last call, from a counter that all callers share.
    rolling
        Evaluates inputs of several applications of the module (:mod:`.rolling`); None if there are
        none.
    """

    def __init__(self, module: nn.Module, plain: Callable[[Tensor], Tensor] | None = None) -> None:
        self.module = module
        self.outputs: Outputs | None = None
        self.time = -1
        self.rolling: Callable[[Callable[[Any], Tensor], Inputs], Tensor] | None = None
        self._plain = plain
        self._by_name: dict[tuple[str, ...], bool] = {}

    def __call__(self, x: Any) -> Tensor:
        """Evaluate the module; return ``(B, ...)`` for one output, ``(B, n)`` for several.

        Raises
        ------
        UsageError
            If the module takes other inputs, or returns no tensor with the items as first axis.
        """
        if self.rolling is not None and isinstance(x, Inputs):
            return self.rolling(self._once, x)
        return self._once(x)

    def _once(self, x: Any) -> Tensor:
        y: Any = self.returned(x)
        if not is_tensor_like(y):
            # an exported network takes any number of items, so they must not be counted
            return self._packed(y, None if torch.compiler.is_exporting() else len(x))
        if self.outputs is not None:
            self.outputs = None
        self.time = next(_clock)
        one: Tensor = y if self._plain is None else self._plain(y)
        return one

    def returned(self, x: Any) -> Any:
        """Return the outputs of the module unchanged, before they are packed."""
        if not isinstance(x, Inputs):
            return self.module(x)
        names = tuple(x.named)
        by_name = self._by_name.get(names)
        if by_name is None:
            by_name = self._by_name[names] = takes_by_name(self.module, names)
        return self.module(**x.named) if by_name else self.module(*x.named.values())

    def _packed(self, y: Any, items: int | None) -> Tensor:
        found = dict(entries(y))
        kind = type(self.module).__name__
        if not found:
            raise UsageError(
                f"{kind} returns a {type(y).__name__} that contains no floating-point tensor"
            )
        if not all(isinstance(t, Tensor) for t in found.values()):
            raise NotPossibleError("an output without items among several outputs")
        rows = {len(t) if t.dim() else 0 for t in found.values() if items is not None}
        if (
            items is not None
            and rows != {items}
            and (len(rows) > 1 or not items or max(rows) % items)
        ):
            name = next((n for n, t in found.items() if not t.dim() or len(t) != items), "")
            raise UsageError(
                f"{kind}: its output {name} has the shape {tuple(found[name].shape)} for {items} "
                f"items; the first axis of each output must be that of the batch (outputs: "
                f"{', '.join(found)})"
            )
        plain = self._plain or (lambda t: t)
        self.time = next(_clock)
        if len(found) == 1:
            self.outputs = None
            return plain(next(iter(found.values())))
        outputs = Outputs({name: tuple(t.shape[1:]) for name, t in found.items()})
        if outputs != self.outputs:
            self.outputs = outputs
        if len({t.is_complex() for t in found.values()}) > 1:
            raise UsageError(f"{kind}: some of its outputs are complex and others are not")
        wide: Any = None
        for t in found.values():
            wide = t.dtype if wide is None else torch.promote_types(wide, t.dtype)
        return torch.cat([plain(t).reshape(t.shape[0], -1).to(wide) for t in found.values()], 1)


class Single(nn.Module):
    """A module that takes one tensor, or :class:`Inputs`, and returns one tensor.

    Parameters
    ----------
    module
        Any module, see :class:`Caller`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Tensor:
        """Evaluate the module; return ``(B, ...)`` for one output, ``(B, n)`` for several."""
        return Caller(self.module)(x)


def takes_by_name(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether a module takes several inputs by their names, rather than by position.

    Raises
    ------
    UsageError
        If the module takes them in neither way; the message lists its arguments and the names.
    """
    of = module
    while isinstance(getattr(of, "takes_inputs_of", None), nn.Module):
        of = of.takes_inputs_of  # type: ignore[assignment]
    try:
        signature = inspect.signature(of.forward)
    except (TypeError, ValueError):  # a compiled module has no signature
        return False
    places = list(signature.parameters)
    for by_name in (True, False):
        try:
            signature.bind(**dict.fromkeys(names)) if by_name else signature.bind(*names)
        except TypeError:
            continue
        if by_name or all(n not in places or places.index(n) == i for i, n in enumerate(names)):
            return by_name
    takes = ", ".join(signature.parameters) or "none"
    raise UsageError(
        f"the inputs are {', '.join(names)}, but {type(of).__name__}.forward takes {takes}: name "
        f"the arrays like its arguments, or pass as many as it takes by position"
    )


def entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Floating-point tensors that a module returns, by name; integers have no gradient."""
    if is_tensor_like(value):
        if value.is_floating_point() or value.is_complex():
            yield path, value
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
    elif isinstance(value, (tuple, list)):
        parts = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    for name, part in parts:
        yield from entries(part, f"{path}.{name}" if path else str(name))
