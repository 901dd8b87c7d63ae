"""Keep freed memory for the next step, instead of letting glibc return it to the system.

By default glibc unmaps large blocks when they are freed. A step then obtains nearly all its
activations page by page from the kernel, which clears each page first, and several ranks of a node
do so at the same time: 100,000 page faults per step of a small vision transformer, 4 % of its time
with one rank and more with two.

All threads share one heap: otherwise a block freed by one thread would not serve another, and the
peak memory of a run would depend on which thread came first (1.1 to 1.5 GB for the same run).

Passes that check a network or compare speeds allocate blocks of other sizes than a step, which does
not reuse them all, so they are returned to the system.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

#: Parameters of mallopt in malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
#: The largest block that glibc can take from its heap; larger ones are still unmapped.
LARGEST = 32 << 20


def keep(environment: Mapping[str, str] = os.environ) -> bool:
    """Make glibc keep freed blocks of up to 32 MiB for reuse by any thread of this process.

    Nothing changes if the user has preloaded another allocator, or tuned malloc with ``MALLOC_*_``
    or ``GLIBC_TUNABLES``.

    Returns
    -------
    bool
        Whether the blocks are kept; always False with another libc.
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


def give_back() -> None:
    """Return freed blocks to the system, even those that :func:`keep` keeps; needs glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
