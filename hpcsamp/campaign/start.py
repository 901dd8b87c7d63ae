"""Read the base configuration of a campaign: a file, or the best point of another campaign.

    config = { best = "valid.nll", of = "first.toml" }

uses the settings of the best finished point of ``first.toml``. The first submission copies them to
``start.toml`` in the campaign's folder. Later commands read the copy, so the names of this
campaign's points do not change when points of the other campaign finish later.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.campaign.spec import CampaignFile
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import write_whole

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign

COPY = "start.toml"
"""Name of the copy in the campaign's folder."""

_reading: ContextVar[tuple[Path, ...]] = ContextVar("_reading", default=())
"""Campaign files whose base configuration is being determined."""


def source(spec: CampaignFile, file: Path, root: Path, folder: Path) -> str | Path:
    """Return the path or the built-in name of the base configuration of a campaign.

    Parameters
    ----------
    spec, file
        Content and path of the campaign file.
    root
        Folder that paths in the file are relative to.
    folder
        Folder of the campaign.

    Raises
    ------
    UsageError
        If the other campaign cannot be read, or has no finished point with the metric.
    """
    if isinstance(spec.config, str):
        inside = root / spec.config
        return inside if inside.is_file() else spec.config
    if (folder / COPY).is_file():
        return folder / COPY
    from hpcsamp.campaign import stages
    from hpcsamp.campaign.best import best
    from hpcsamp.campaign.collect import collect

    within = _reading.get()
    where = f"{file}: config.of = {spec.config.of}"
    if file.resolve() in within:
        raise UsageError(f"{where}: the campaigns start from one another")
    before = _reading.set((*within, file.resolve()))
    try:
        other = stages.load(root / spec.config.of)
        _, [row] = best(collect(other, ask_scheduler=False), spec.config.best, spec.config.highest)
    except (UsageError, DataError) as e:
        raise UsageError(f"{where}: {e}") from None
    finally:
        _reading.reset(before)
    return other.folder / "points" / str(row["folder"]) / "config.toml"


def keep(campaign: Campaign) -> None:
    """Copy the configuration of the best point to the campaign's folder, unless it has a copy.

    Raises
    ------
    UsageError
        If it cannot be copied.
    """
    path, known = campaign.folder / COPY, isinstance(campaign.spec.config, str)
    if known or campaign.needs or path.is_file():  # a stage uses the base of its campaign
        return
    try:
        write_whole(path, Path(campaign.source).read_text())
    except OSError as e:
        raise UsageError(f"cannot copy {campaign.source} to {path}: {e.strerror}") from e
