"""List the networks of a package by name, and the arguments of each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.models.factory import configured
from hpcsamp.names import MODELS
from hpcsamp.registry import public
from hpcsamp.vision import import_module

USUAL = (
    ("torchvision.models:resnet18", "any class or function of torchvision"),
    ("timm:create_model", 'any network of timm, by model_name = "..."'),
    ("transformers:ViTForImageClassification", "any class of transformers; keys are its config's"),
    ("package.module:Class", "any class or function of your own that makes a torch.nn.Module"),
)
"""Examples of names other than the registered ones, and what they refer to."""


class Entry(NamedTuple):
    """A class or function that makes a network: its name, description and arguments."""

    name: str
    about: str
    arguments: list[str]


def registered() -> list[Entry]:
    """Return the networks of this package."""
    found = []
    for name, kind in MODELS.items():
        if name != "given":  # refers to a module that is passed from Python
            arguments = [a for a in free.accepted(kind) if a not in ("in_shape", "outputs")]
            found.append(Entry(name, _about(kind), arguments))
    return found


def within(place: str) -> list[Entry]:
    """Return the classes and functions of a module that make networks.

    Parameters
    ----------
    place
        ``package.module``, or ``package.module:PATTERN`` for names that match a pattern of
        :mod:`fnmatch`. Parts that a package imports on request are listed only for a pattern.

    Raises
    ------
    UsageError
        If the module does not exist, or contains no network.
    """
    path, _, pattern = place.partition(":")
    try:
        module = import_module(path)
    except Exception as e:  # importing a module can raise anything
        raise UsageError(f"{place}: {type(e).__name__}: {e}") from e
    names = public(module) if pattern else [n for n in vars(module) if not n.startswith("_")]
    wanted = (n for n in names if fnmatchcase(n, pattern or "*"))
    found = list(_makers(module, wanted))
    if not found:
        more = "" if pattern else f"; try a pattern, e.g. {path}:*Classification"
        raise UsageError(f"{place}: no class or function there makes a torch.nn.Module{more}")
    return found


def _makers(module: Any, names: Iterator[str]) -> Iterator[Entry]:
    for name in sorted(names):
        try:
            kind = getattr(module, name)
        except Exception:  # needs a package that is not installed
            continue
        if _makes(kind):
            yield Entry(f"{module.__name__}:{name}", _about(kind), arguments(kind))


def arguments(kind: Any) -> list[str]:
    """Arguments by name, with their default values."""
    config = configured(kind)
    found = free.accepted(kind if config is None else config)
    plain = (bool, int, float, str)
    shown = [f"{n}={p.default!r}" if isinstance(p.default, plain) else n for n, p in found.items()]
    return [*shown, "..."] if config is None and free.open_ended(kind) else shown


def _makes(kind: Any) -> bool:
    if inspect.isclass(kind):
        return issubclass(kind, nn.Module)
    if not inspect.isfunction(kind):
        return False
    try:
        made = inspect.signature(kind, eval_str=True).return_annotation
    except Exception:  # annotations that only the type checker can read
        return False
    return (
        inspect.isclass(made)
        and made is not inspect.Signature.empty
        and issubclass(made, nn.Module)
    )


def _about(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]
