"""Watchdog: end a job when one of its ranks hangs, and report which rank and where.

Every rank records its current work (:data:`here`). A thread of each rank sends signs of life to the
others, through shared memory within a node and by messages between nodes. If a rank gives no sign
of life for too long, the others report it, write a stall file and end the job
(:class:`~hpcsamp.watchdog.dog.Watchdog`).
"""

from hpcsamp.watchdog.stall import DEFAULT, STALL
from hpcsamp.watchdog.whereabouts import Doing, Part, Phase, here

__all__ = ["DEFAULT", "STALL", "Doing", "Part", "Phase", "here"]
