"""Schedulers, one file each behind :class:`~.base.Scheduler`."""

from __future__ import annotations

from hpcsamp.campaign.schedulers.base import Element, Limits, Scheduler, SchedulerError
from hpcsamp.campaign.site import Site

__all__ = ["Element", "Limits", "Scheduler", "SchedulerError", "make"]


def make(site: Site, name: str | None = None) -> Scheduler:
    """The scheduler of a site, or another one by its name."""
    kind = name or site.scheduler
    if kind == "slurm":
        from hpcsamp.campaign.schedulers.slurm import Slurm

        return Slurm(site)
    if kind == "pbs":
        from hpcsamp.campaign.schedulers.pbs import PBS

        return PBS(site)
    from hpcsamp.campaign.schedulers.local import Local

    return Local(site)
