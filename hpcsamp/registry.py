"""Classes that a configuration names, imported when asked for: registered ones, or anybody's
own as ``package.module:Class``.

A registry holds places, not classes, so that names can be checked and listed without importing
what they stand for. To register a class is one line of :mod:`hpcsamp.names`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown, suggest
from hpcsamp.vision import import_module


class Registry(Mapping[str, Any]):
    """Classes or functions by name; ``registry[name]`` imports one.

    Parameters
    ----------
    key
        Key of the configuration that names them, for messages: ``loss.name``.
    places
        ``package.module:Class`` by name.
    base
        Place of the class that all derive from; empty where any callable will do.
    words
        What may stand in the key beside names, as ``auto``.
    """

    def __init__(
        self, key: str, places: Mapping[str, str], base: str = "", words: tuple[str, ...] = ()
    ) -> None:
        self.key = key
        self._places = dict(places)
        self._base = base
        self.words = words

    def __getitem__(self, name: str) -> Any:
        return opened(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def place(self, name: str) -> str:
        """Where a registered class is, ``package.module:Class``."""
        return self._places[name]

    def add(self, name: str, place: str) -> None:
        """Register ``package.module:Class`` under a name, which none has yet.

        Raises
        ------
        ValueError
            If the name is taken, or would be read as a place.
        """
        if name in self._places or ":" in name:
            raise ValueError(f"{self.key}: {name!r} cannot be registered as {place}")
        self._places[name] = place

    def fault(self, name: Any) -> str:
        """Why a name cannot stand in the key, with what may; empty if it is registered, or written
        as a place. Nothing is imported.
        """
        if isinstance(name, str) and (name in self._places or ":" in name):
            return ""
        near = suggest(name, [*self.words, *self._places]) if isinstance(name, str) else ""
        known = ", ".join((*self.words, *self._places))
        return f"there is {known}, or your own as package.module:Class{near}"

    def find(self, name: Any) -> Any:
        """The class or function with a registered name, or at a place.

        Raises
        ------
        UsageError
            If there is none, it cannot be imported, or it is not of the kind that the key takes.
        """
        fault = self.fault(name)
        if fault:
            raise UsageError(f"{self.key} = {shown(name)}: {fault}")
        if name in self._places:
            return self[name]
        try:
            found = opened(name)
        except Exception as e:  # whatever a module of the user's raises when it is imported
            why = (
                str(e)
                if isinstance(e, ImportError | AttributeError)
                else f"{type(e).__name__}: {e}"
            )
            if isinstance(e, ModuleNotFoundError) and name.startswith(f"{e.name}:"):
                why += ": neither in this folder, nor on PYTHONPATH, nor installed"
            raise UsageError(f"{self.key} = {name!r}: {why}") from e
        if self._base:
            self._check_kind(name, found)
        elif not callable(found):
            raise UsageError(f"{self.key} = {name!r} is no class or function: {shown(found)}")
        return found

    def _check_kind(self, name: str, found: Any) -> None:
        base = opened(self._base)
        if not (inspect.isclass(found) and issubclass(found, base)):
            of = self._base.replace(":", ".")
            raise UsageError(f"{self.key} = {name!r} is not a subclass of {of}")
        # torch's modules have no metaclass that would know
        missing = [
            own
            for own in dir(found)
            if getattr(inspect.getattr_static(found, own), "__isabstractmethod__", False)
        ]
        if missing:
            raise UsageError(f"{self.key} = {name!r} does not define {', '.join(missing)}")


def opened(place: str) -> Any:
    """The class or function at ``package.module:Class``; one within a class is ``Class.name``.

    Raises
    ------
    ImportError, AttributeError
        If there is none.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise ImportError("a place is written package.module:Class")
    found = import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise AttributeError(
                f"{module} has no attribute {name!r}{suggest(part, public(found))}"
            )
        found = getattr(found, part)
    return found


def public(holder: Any) -> list[str]:
    """Names of a module or class that are for others to use."""
    return [name for name in dir(holder) if not name.startswith("_")]
