"""Schedulers, one file each behind :class:`~.base.Scheduler`."""

from __future__ import annotations

from hpcsamp.campaign.schedulers.base import Element, Limits, Scheduler, SchedulerError, Seen
from hpcsamp.campaign.site import Site
from hpcsamp.names import SCHEDULERS

__all__ = ["Element", "Limits", "Scheduler", "SchedulerError", "Seen", "make"]


def make(site: Site, name: str | None = None) -> Scheduler:
    """Create the scheduler of a site, or another one by its name."""
    made: Scheduler = SCHEDULERS.find(name or site.scheduler)(site)
    return made
