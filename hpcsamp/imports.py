"""Import large packages without the garbage collector, which would visit all that they define."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Within the block there are no automatic collections.

    Modules define hundreds of thousands of objects that stay, and each of several full collections
    visits all of them: a tenth of the time to import torch, a third of that of pandas after it.
    What the block made is then of the oldest generation, as it would be after these collections.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            if not gc.get_freeze_count():  # what the user has frozen stays so
                gc.freeze()
                gc.unfreeze()  # puts all objects into the oldest generation
            gc.enable()
