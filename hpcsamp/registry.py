"""Look up classes by the names in a configuration: registered names, or any other class as
``package.module:Class``.

A registry holds import paths, not classes, so that names can be checked and listed without
importing anything. One line in :mod:`hpcsamp.names` registers a class.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown, suggest
from hpcsamp.vision import import_module


class Registry(Mapping[str, Any]):
    """Classes or functions by name; ``registry[name]`` imports one.

    Parameters
    ----------
    key
        Configuration key that holds the name, for messages: ``loss.name``.
    places
        Import paths ``package.module:Class`` by name.
    base
        Import path of the common base class; empty if any callable is allowed.
    words
        Reserved values of the key that are not names, e.g. ``auto``.
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
        """Return the import path ``package.module:Class`` of a registered name."""
        return self._places[name]

    def writes(self, name: str, argument: str) -> bool:
        """Whether the source of a registered class of this package names an argument.

        Nothing is imported. An argument that is not found may still be accepted.
        """
        module, _, kind = self._places.get(name, "").partition(":")
        package, *parts = module.split(".")
        file = Path(__file__).parent.joinpath(*parts).with_suffix(".py")
        if package != __package__ or not file.is_file():
            return False
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and node.name == kind:
                made = [f for f in node.body if isinstance(f, ast.FunctionDef)]
                given = [f.args for f in made if f.name == "__init__"]
                return any(a.arg == argument for g in given for a in (*g.args, *g.kwonlyargs))
        return False

    def add(self, name: str, place: str) -> None:
        """Register a class, as ``package.module:Class``, under a new name.

        Raises
        ------
        ValueError
            If the name is taken, or contains a colon.
        """
        if name in self._places or ":" in name:
            raise ValueError(f"{self.key}: {name!r} cannot be registered as {place}")
        self._places[name] = place

    def fault(self, name: Any) -> str:
        """Explain why a name is not valid and list the valid ones; empty if it is valid.

        A name is valid if it is registered or written as an import path. Nothing is imported.
        """
        if isinstance(name, str) and (name in self._places or ":" in name):
            return ""
        near = suggest(name, [*self.words, *self._places]) if isinstance(name, str) else ""
        known = ", ".join((*self.words, *self._places))
        return f"choose from {known}, or your own as package.module:Class{near}"

    def find(self, name: Any) -> Any:
        """Return the class or function with a registered name or at an import path.

        Raises
        ------
        UsageError
            If there is no such object, it cannot be imported, or it is not of the class that the
            key requires.
        """
        fault = self.fault(name)
        if fault:
            raise UsageError(f"{self.key} = {shown(name)}: {fault}")
        if name in self._places:
            return self[name]
        try:
            found = opened(name)
        except Exception as e:  # importing a user's module may raise anything
            why = (
                str(e)
                if isinstance(e, ImportError | AttributeError)
                else f"{type(e).__name__}: {e}"
            )
            if isinstance(e, ModuleNotFoundError) and name.startswith(f"{e.name}:"):
                why += ": it is neither in this folder, nor on PYTHONPATH, nor installed"
            raise UsageError(f"{self.key} = {name!r}: {why}") from e
        if self._base:
            self._check_kind(name, found)
        elif not callable(found):
            raise UsageError(f"{self.key} = {name!r} is not a class or function: {shown(found)}")
        return found

    def _check_kind(self, name: str, found: Any) -> None:
        base = opened(self._base)
        if not (inspect.isclass(found) and issubclass(found, base)):
            of = self._base.replace(":", ".")
            raise UsageError(f"{self.key} = {name!r} is not a subclass of {of}")
        # torch's modules have no ABCMeta that would collect abstract methods
        missing = [
            member
            for member in dir(found)
            if getattr(inspect.getattr_static(found, member), "__isabstractmethod__", False)
        ]
        if missing:
            raise UsageError(f"{self.key} = {name!r} does not define {', '.join(missing)}")


def opened(place: str) -> Any:
    """Import the object at ``package.module:Class``; an attribute of a class is ``Class.name``.

    Raises
    ------
    ImportError, AttributeError
        If there is no such object.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise ImportError("an import path must be written package.module:Class")
    found = import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise AttributeError(
                f"{module} has no attribute {name!r}{suggest(part, public(found))}"
            )
        found = getattr(found, part)
    return found


def public(holder: Any) -> list[str]:
    """Return the public names of a module or class."""
    return [name for name in dir(holder) if not name.startswith("_")]
