"""Find the layer that is being evaluated or has failed, for error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpcsamp.errors import HpcsampError


class ModuleLayer(NamedTuple):
    """A layer of a module.

    Attributes
    ----------
    name
        Name of the layer in the module, empty for the module itself.
    kind
        Name of its class.
    """

    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.name}, a {self.kind}" if self.name else self.kind


@contextmanager
def followed(module: nn.Module, layers: list[ModuleLayer]) -> Iterator[None]:
    """Context that tracks the layers that are being evaluated, the innermost last."""
    handles = []
    for name, part in module.named_modules():

        def begin(*_: Any, name: str = name, part: nn.Module = part) -> None:
            layers.append(ModuleLayer(name, type(part).__name__))

        def end(*_: Any) -> None:
            layers.pop()

        handles += [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def naming(module: nn.Module) -> Iterator[None]:
    """Context that adds a note to errors of a forward pass: the layer and its inputs.

    The layer is read from the frames of the traceback. Nothing is evaluated again, because on one
    of several ranks this might wait for the others.
    """
    try:
        yield
    except HpcsampError:
        raise
    except Exception as e:
        if not hasattr(e, "__notes__") and (note := _raised_in(e.__traceback__, module)):
            e.add_note(note)
        raise


def _raised_in(trace: TracebackType | None, module: nn.Module) -> str | None:
    names = {id(part): name for name, part in module.named_modules()}
    found = None
    while trace is not None:
        here, trace = trace.tb_frame, trace.tb_next
        if here.f_code.co_name == "_call_impl" and id(here.f_locals.get("self")) in names:
            found = here.f_locals
    if found is None:
        return None
    part, tensors = found["self"], [t for t in found.get("args", ()) if isinstance(t, Tensor)]
    kind = " ".join(repr(part).split()) if not list(part.children()) else type(part).__name__
    name = names[id(part)]
    given = " and ".join(map(_shown, tensors))
    return f"in {f'{name}, ' if name else ''}{kind:.120}" + (f", given {given}" if given else "")


def _shown(t: Tensor) -> str:
    """Shape and type of an input, and the range of ids."""
    whole = not t.is_floating_point() and not t.is_complex() and t.dtype != torch.bool
    try:
        between = f" from {int(t.min())} to {int(t.max())}" if whole and t.numel() else ""
    except RuntimeError:  # its values cannot be read here
        between = ""
    return f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}{between}"
