"""Snapshots of the whole state of a module, to compare and to restore it.

A snapshot contains parameters and buffers, and everything reachable from attributes: tensors,
arrays, random generators, numbers, containers and plain objects. Values are compared by content.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, MutableSet, Set
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Attributes of every module: its submodules, which are visited separately, and hooks.
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
#: Largest depth to which attributes of attributes are followed, and largest number of values.
DEPTH, MOST = 6, 100_000
#: Reachable from nearly everywhere, and not part of a module.
SHARED = (type, ModuleType, FunctionType, MethodType)
PLAIN = (bool, int, float, complex, str, bytes)
#: Content of a tensor or array whose values cannot be read.
UNKNOWN = "no values"

Place = tuple[str, str]
"""Name of a submodule, and of one of its values."""


class Traces:
    """The current state of a module.

    Attributes
    ----------
    values
        Content by place; None for empty values.
    writes
        Number of writes to each parameter and buffer, by place. Writing the same value also counts
        as state (e.g. a power iteration that has converged).
    """

    def __init__(self, module: nn.Module) -> None:
        self.values: dict[Place, Any] = {}
        self.writes: dict[Place, int] = {}
        self._undo: list[Callable[[], None]] = []
        self._met: set[int] = set()
        self._numbers: set[Place] = set()
        for name, part in module.named_modules():
            self._met.add(id(part))
            self._module(name, "", part)

    def changed(self, later: Traces) -> list[Place]:
        """Places whose content differs in a later snapshot.

        Places that were empty or absent before do not count: a module may fill a cache in its first
        pass, or record properties of its inputs.
        """
        return [
            place
            for place, value in self.values.items()
            if value is not None and place in later.values and later.values[place] != value
        ]

    def written(self, later: Traces) -> list[Place]:
        """Places of parameters and buffers whose content differs or that were written to."""
        changed = {place for place in self.changed(later) if place in self.writes}
        return [
            place
            for place, count in self.writes.items()
            if place in changed or later.writes.get(place, count) != count
        ]

    def plain(self) -> dict[Place, Any]:
        """Values of the snapshot other than parameters and buffers."""
        return {place: value for place, value in self.values.items() if place not in self.writes}

    def numbers(self) -> dict[Place, Any]:
        """Values other than parameters and buffers that are numbers, tensors or arrays."""
        return {place: v for place, v in self.plain().items() if place in self._numbers}

    def put_back(self) -> None:
        """Restore the state of the module, except for the values of parameters."""
        for undo in self._undo:
            undo()

    # Recording ---------------------------------------------------------------------------------

    def _module(self, name: str, prefix: str, part: nn.Module) -> None:
        for own in (part._parameters, part._buffers):
            self._undo.append(_refill_mapping(own))
            for key, tensor in own.items():
                place = (name, prefix + key)
                if tensor is not None and not tensor.is_inference():
                    self.writes[place] = tensor._version
                self._value(place, tensor, 1)
        attributes = {k: v for k, v in vars(part).items() if k not in OF_EVERY_MODULE}
        self._undo.append(_reset_attributes(part, attributes))
        for key, value in attributes.items():
            if type(value) is int and value == id(part):
                continue  # an address, which differs between processes
            self._value((name, prefix + key), value, DEPTH)

    def _value(self, place: Place, value: Any, depth: int) -> None:
        if value is None or isinstance(value, PLAIN):
            self.values[place] = None if value is None else repr(value)
            if isinstance(value, (bool, int, float, complex)):
                self._numbers.add(place)
        elif (
            id(value) not in self._met
            and depth > 0
            and len(self.values) < MOST
            and not isinstance(value, SHARED)
        ):
            self._met.add(id(value))
            if isinstance(value, (Tensor, np.ndarray)):
                self._array(place, value)
            elif (found := _generator(value)) is not None:
                self.values[place], undo = found
                self._undo.append(undo)
            elif isinstance(value, nn.Module):  # not registered, e.g. in a list
                self._module(place[0], f"{place[1]}.", value)
            else:
                self._object(place, value, depth - 1)

    def _array(self, place: Place, value: Tensor | np.ndarray) -> None:
        content = self.values[place] = content_of(value)
        self._numbers.add(place)
        if content == UNKNOWN or isinstance(value, nn.Parameter):
            return  # copying all parameters would cost too much; another check covers them
        copy: Any = value.detach().clone() if isinstance(value, Tensor) else value.copy()

        def undo() -> None:
            if content_of(value) == content:
                return
            if isinstance(value, Tensor):
                value.detach().copy_(copy)
            else:
                np.copyto(value, copy)

        self._undo.append(undo)

    def _object(self, place: Place, value: Any, depth: int) -> None:
        name, key = place
        if isinstance(value, (Mapping, MutableSequence, Set, tuple)):
            if isinstance(value, MutableMapping):
                self._undo.append(_refill_mapping(value))
            elif isinstance(value, (MutableSequence, MutableSet)):
                self._undo.append(_refill(value))
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            for k, v in list(pairs):
                self._value((name, f"{key}[{k!r}]"), v, depth)
        elif isinstance(getattr(value, "__dict__", None), dict):
            attributes = dict(vars(value))
            self._undo.append(_reset_attributes(value, attributes))
            for k, v in attributes.items():
                self._value((name, f"{key}.{k}"), v, depth)
        elif type(value).__repr__ is not object.__repr__:
            shown = repr(value)  # e.g. itertools.count(3)
            self.values[place] = UNKNOWN if " at 0x" in shown else shown


def content_of(value: Tensor | np.ndarray) -> Any:
    """Type, shape and a checksum of an array's bytes."""
    data: Any
    try:
        if isinstance(value, Tensor):
            plain = value.detach()
            if plain.numel() > 1 and not any(plain.stride()):  # a single number, expanded
                plain = plain[(0,) * plain.dim()]
            plain = plain.resolve_conj().resolve_neg().cpu().contiguous()
            data = plain.reshape(-1).view(torch.uint8).numpy()
        else:
            data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return UNKNOWN  # sparse, meta, objects, or of a transform that has ended
    return str(value.dtype), tuple(value.shape), zlib.crc32(data)


def _generator(value: Any) -> tuple[Any, Callable[[], None]] | None:
    """State of a random generator and a function that restores it; None for anything else."""
    if isinstance(value, torch.Generator):
        state = value.get_state()

        def undo() -> None:
            value.set_state(state)

        return content_of(state), undo
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        inner = bits.state
        return repr(inner), lambda: setattr(bits, "state", inner)
    if isinstance(value, np.random.RandomState):
        old: Any = value.get_state()
        return (content_of(old[1]), *old[2:]), lambda: value.set_state(old)
    if isinstance(value, random.Random):
        own = value.getstate()
        return own, lambda: value.setstate(own)
    return None


# Restoring ---------------------------------------------------------------------------------------


def _refill_mapping(mapping: MutableMapping[Any, Any]) -> Callable[[], None]:
    items = list(mapping.items())

    def undo() -> None:
        if not _same([x for item in mapping.items() for x in item], [x for i in items for x in i]):
            mapping.clear()
            mapping.update(items)

    return undo


def _refill(container: Any) -> Callable[[], None]:
    elements = list(container)
    add = container.add if isinstance(container, MutableSet) else container.append

    def undo() -> None:
        if not _same(list(container), elements):
            container.clear()
            for element in elements:
                add(element)

    return undo


def _reset_attributes(owner: Any, before: dict[str, Any]) -> Callable[[], None]:
    kept = OF_EVERY_MODULE if isinstance(owner, nn.Module) else frozenset()

    def undo() -> None:
        own = vars(owner)
        for key in [k for k in own if k not in before and k not in kept]:
            del own[key]
        own.update(before)

    return undo


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
