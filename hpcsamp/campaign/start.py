"""Read the base configuration of a campaign: a file, or the best point of another campaign.

    config = { best = "valid.nll", of = "first.toml" }

starts from the settings of the best finished point of ``first.toml``. The first submission copies
them to ``start.toml`` in the campaign's folder, and from then on the copy is read: points that
finish later elsewhere do not rename the points of this campaign.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp import config
from hpcsamp.campaign.spec import CampaignFile
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import write_whole

if TYPE_CHECKING:
    from hpcsamp.campaign.points import Campaign

COPY = "start.toml"
"""Name of the copy in the campaign's folder."""


def read(spec: CampaignFile, file: Path, root: Path, folder: Path) -> config.RunConfig:
    """Read the base configuration of a campaign.

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
        If it cannot be read, or the other campaign has no finished point with the metric.
    """
    if isinstance(spec.config, str):
        inside = root / spec.config
        return config.load(inside if inside.is_file() else spec.config, preset=spec.preset)
    return config.load(source(spec, file, root, folder), preset=spec.preset)


def source(spec: CampaignFile, file: Path, root: Path, folder: Path) -> Path:
    """Return the copy in the campaign's folder, or the configuration of the best point.

    Raises
    ------
    UsageError
        See :func:`read`.
    """
    assert not isinstance(spec.config, str)
    if (folder / COPY).is_file():
        return folder / COPY
    from hpcsamp.campaign import stages
    from hpcsamp.campaign.best import best
    from hpcsamp.campaign.collect import collect

    try:
        other = stages.load(root / spec.config.of)
        _, [row] = best(collect(other, ask_scheduler=False), spec.config.best, spec.config.highest)
    except (UsageError, DataError) as e:
        raise UsageError(f"{file}: config.of = {spec.config.of}: {e}") from None
    except RecursionError:
        raise UsageError(f"{file}: config.of = {spec.config.of}: it starts from itself") from None
    return other.folder / "points" / str(row["folder"]) / "config.toml"


def keep(campaign: Campaign) -> None:
    """Copy the configuration of the best point to the campaign's folder, unless it is there.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    if isinstance(campaign.spec.config, str) or (campaign.folder / COPY).is_file():
        return
    best = source(campaign.spec, campaign.file, campaign.root, campaign.folder)
    write_whole(campaign.folder / COPY, best.read_text())
