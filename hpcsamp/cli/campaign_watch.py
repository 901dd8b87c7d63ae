"""``hpcsamp campaign status --watch``: states of points and stages until all have ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from hpcsamp.cli.campaign_options import in_words, or_elsewhere

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign
    from hpcsamp.campaign.selection import Selection


def watch(
    made: Campaign, selection: Selection, followers: Mapping[str, Campaign], seconds: float
) -> None:
    """Show the states until no point is waiting or running, with one scheduler query each time."""
    from hpcsamp.campaign.stage import POINTS
    from hpcsamp.campaign.status import WORDS, together
    from hpcsamp.runtime import on_terminal

    stages = {POINTS: made, **followers}
    names = {p.name for p in selection.of_plan(made)}
    before: dict[tuple[str, str], str] = {}
    terminal = on_terminal()
    while True:
        with or_elsewhere():
            surveys = together(list(stages.values()))
        now, busy, parts, lost = {}, 0, [], []
        for stage, survey in zip(stages, surveys, strict=True):
            points = [s for s in survey.points if stage != POINTS or s.point.name in names]
            counts = {w: sum(s.word == w for s in points) for w in WORDS}
            busy += counts["queued"] + counts["running"]
            named = f"{stage}: " if followers else ""
            parts.append(f"{named}{in_words(counts)}")
            for s in points:
                key = (stage, s.point.name)
                now[key] = s.word
                if before.get(key, s.word) != s.word and s.word in ("failed", "interrupted"):
                    lost.append(f"{named}point {s.point.number} {s.word}: {s.why}")
        line = f"{time.strftime('%H:%M:%S')}  {'; '.join(parts)}"
        if terminal:
            typer.echo(f"\r\033[K{line}", nl=False)
        elif now != before:
            typer.echo(line)
        for text in lost:
            typer.echo(f"{chr(10) * terminal}{text}")
        before = now  # type: ignore[assignment]
        if not busy:
            typer.echo("" if terminal else "no point is waiting or running")
            return
        time.sleep(seconds)
