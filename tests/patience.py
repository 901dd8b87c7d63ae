"""How long tests wait: limits are for hangs, and the machine may be busy with other work."""

from __future__ import annotations

import os

#: Every limit in the tests is what a quiet machine needs at most, times this.
PATIENCE = float(os.environ.get("HPCSAMP_TEST_PATIENCE", "5"))


def patient(seconds: float) -> float:
    """Seconds to wait for what takes at most that long on a quiet machine."""
    return seconds * PATIENCE
