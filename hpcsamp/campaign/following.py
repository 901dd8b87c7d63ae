"""Read the log of a point since its last start, and follow it while the point runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hpcsamp.campaign import causes, mending
from hpcsamp.campaign.point import Point
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.status import Survey

LOOK = 0.5
"""Seconds between two reads of a log."""

ASK = 10.0
"""Seconds between two checks whether the point still runs."""


def last_start(log: Path, folder: Path, lines: int = 0) -> str:
    """Return the log of a point since its last start.

    Parameters
    ----------
    log, folder
        The log, and the folder of the point.
    lines
        Number of lines from the end of the log; 0 for all.
    """
    text = log.read_text(errors="replace")
    start = causes.last_start(folder)
    if start is not None:
        mark = text.rfind(f"campaign: start {start.number} of {folder.name} ")
        text = text[max(mark, 0) :]
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else text


def follow(campaign: Campaign, point: Point, write: Callable[[str], object]) -> None:
    """Pass new text in the log of a point to a function until the point has ended.

    Earlier text is left out. If the log does not exist yet, wait for it.
    """
    place: Path | None = None
    read = asked = 0.0
    while True:
        ended = False
        if time.monotonic() - asked > ASK or place is None:
            survey = Survey(campaign, mending.load(campaign))
            asked = time.monotonic()
            ended = point.name not in survey.live
            found = survey.element(point)
            if found is not None and found.log != place and found.log.exists():
                read = found.log.stat().st_size if place is None and not read else 0
                place = found.log
        if place is not None:
            with place.open("rb") as f:
                f.seek(int(read))
                new = f.read()
            read += len(new)
            if new:
                write(new.decode(errors="replace"))
        if ended:
            return
        time.sleep(LOOK)
