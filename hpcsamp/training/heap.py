"""Memory of one step for the next: keep glibc from giving freed tensors back to the system.

By default it unmaps large blocks as they are freed. A step then gets nearly all its activations
page by page from the kernel, which clears each page first, and several ranks of a node do so at the
same time: 100,000 page faults a step of a small vision transformer, 4 % of its time with one rank
and more with two.

All threads share one heap: what one has freed would not serve another, and the peak of a run would
depend on which thread came first (1.1 to 1.5 GB for the same run).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

#: Numbers of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
#: The largest block that glibc can be told to take from its heap; larger ones still come and go.
LARGEST = 32 << 20


def keep(environment: Mapping[str, str] = os.environ) -> bool:
    """Have freed blocks of up to 32 MiB kept for reuse by any thread, for the rest of this process.

    Nothing is changed where the user has chosen: another allocator is preloaded, or malloc is tuned
    by ``MALLOC_*_`` or ``GLIBC_TUNABLES``.

    Returns
    -------
    bool
        Whether they are; not so with another libc.
    """
    chosen = any(name.startswith("MALLOC_") for name in environment)
    if chosen or environment.get("GLIBC_TUNABLES") or environment.get("LD_PRELOAD"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = (
        (_ARENA_MAX, 1),
        (_MMAP_THRESHOLD, LARGEST),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, 2 * LARGEST),
    )
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
