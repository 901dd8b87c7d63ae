"""Import large packages with less work of Python, which saves start-up time."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def without_collection() -> Iterator[None]:
    """Switch off automatic garbage collection within the block.

    Modules define hundreds of thousands of permanent objects, and each of several full collections
    visits all of them: this takes a tenth of the time to import torch, and a third of the time to
    import pandas after it. Afterwards the new objects are moved to the oldest generation, as the
    collections would have done.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            if not gc.get_freeze_count():  # objects that the user has frozen stay frozen
                gc.freeze()
                gc.unfreeze()  # moves all objects to the oldest generation
            gc.enable()


@contextmanager
def modules_by_name() -> Iterator[None]:
    """Let ``inspect.getmodule`` find the module of a frame by its name within the block.

    The import of torch asks for the modules of frames. ``inspect`` compares file names, and
    resolves those of all loaded modules: one call of the file system per part of each path, two
    thirds of those that the import makes. A module's frames have its name in their globals.
    """
    by_file = inspect.getmodule

    def getmodule(object: Any, _filename: str | None = None) -> Any:
        if isinstance(object, FrameType):
            return sys.modules.get(object.f_globals.get("__name__", ""))
        return by_file(object, _filename)

    inspect.getmodule = getmodule
    try:
        yield
    finally:
        inspect.getmodule = by_file
