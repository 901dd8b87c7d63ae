"""Wait until other ranks or threads have written to shared memory, by polling."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

# Yields the core to another rank and, through ctypes, the interpreter lock to another thread.
_give_way = ctypes.CDLL(None).sched_yield


def wait(done: Callable[[], bool]) -> None:
    """Poll until a condition holds: first without pauses, then with pauses of at most 1 ms.

    Parameters
    ----------
    done
        Condition, which must be cheap and without side effects.
    """
    for _ in range(50):
        if done():
            return
        _give_way()
    pause = 5e-5
    while not done():
        time.sleep(pause)
        pause = min(pause * 1.25, 1e-3)
