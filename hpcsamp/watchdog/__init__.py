"""The watchdog: no rank is waited for without end.

Every rank notes where it is (:data:`here`). A thread of each rank tells the others that it lives,
through shared memory within a node and by messages between nodes. Once a rank gives no sign of life
for too long, those that can still speak name it, write a stall file, and end the job
(:class:`~hpcsamp.watchdog.dog.Watchdog`).
"""

from hpcsamp.watchdog.stall import DEFAULT, STALL
from hpcsamp.watchdog.whereabouts import Doing, Part, Phase, here

__all__ = ["DEFAULT", "STALL", "Doing", "Part", "Phase", "here"]
