"""Options that several commands of ``hpcsamp campaign`` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign
    from hpcsamp.campaign.selection import Selection
    from hpcsamp.campaign.status import Survey

File = Annotated[
    Path,
    typer.Argument(metavar="CAMPAIGN", help="The campaign file, or a stage of it: FILE:STAGE."),
]
SiteName = Annotated[
    str | None,
    typer.Option("--site", help="Site to use instead of the one in the file, e.g. local."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
]
All = Annotated[bool, typer.Option("--all", help="Show all points, not only the first 50.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Do not query the scheduler for waiting and running jobs.")
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Only points that satisfy this condition, e.g. 'seed < 3 and data.batch == 64'.",
    ),
]
States = Annotated[
    list[str] | None,
    typer.Option("--state", help="Only points in this state, e.g. failed; may be repeated."),
]
Chosen = Annotated[
    list[str] | None,
    typer.Option(
        "--point", help="Only this point, by its number or the beginning of its folder's name."
    ),
]
OnePoint = Annotated[
    str | None, typer.Argument(help="Number of a point, or the name of its folder.")
]
SHOWN = 50
"""Number of points shown in a table without ``--all``."""


def load(file: Path, site: str | None = None) -> Campaign:
    """Read a campaign file, or a stage of one: ``FILE:STAGE``."""
    from hpcsamp.campaign import stages

    return stages.load(file, site)


def choose(where: Where = None, state: States = None, point: Chosen = None) -> Selection:
    """Read the options that select points; without any of them, every point is selected."""
    from hpcsamp.campaign.selection import select

    return select(where, state or (), point or ())


def look(campaign: Campaign, ask_scheduler: bool = True) -> Survey:
    """Read the states of all points; errors of the scheduler name --offline."""
    from hpcsamp.campaign import mending
    from hpcsamp.campaign.status import Survey

    with or_elsewhere():
        return Survey(campaign, mending.load(campaign, ask_scheduler), ask_scheduler)


@contextmanager
def or_elsewhere(how: str = "--offline works") -> Iterator[None]:
    """Add to a scheduler's error how to use the command without it."""
    from hpcsamp.campaign.schedulers import SchedulerError

    try:
        yield
    except SchedulerError as e:
        raise SchedulerError(f"{e}; {how} without the scheduler") from e


def cell(value: object) -> str | int | float | bool | None:
    """Convert a value of a configuration to a cell of a table."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def in_words(counts: Mapping[Any, int]) -> str:
    """Describe the number of points in each state, e.g. ``3 done, 1 failed``."""
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)
