"""Import large packages with the garbage collector switched off, which saves start-up time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
