"""Load the state of a campaign, and find jobs that an interrupted submission did not record."""

from __future__ import annotations

from hpcsamp.campaign import render
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.schedulers import make
from hpcsamp.campaign.store import CampaignState, Store
from hpcsamp.errors import UsageError


def load(campaign: Campaign, ask_scheduler: bool = True) -> CampaignState:
    """Return the state of a campaign, including jobs that only the scheduler knows.

    Jobs found this way are recorded, unless another command is changing the campaign or its folder
    is read-only.

    Raises
    ------
    SchedulerError
        If there are unrecorded jobs, and the scheduler does not answer.
    """
    store = Store(campaign.folder)
    state = store.load()
    if not ask_scheduler or all(r.job is not None for s in state.submissions for r in s.jobs):
        return state
    try:
        with store.lock():
            return mend(campaign, store.load(), store)
    except UsageError:
        return mend(campaign, state, None)


def mend(campaign: Campaign, state: CampaignState, store: Store | None) -> CampaignState:
    """Find unrecorded jobs by their identity; the result has no unrecorded jobs.

    Parameters
    ----------
    store
        Store in which a changed state is saved; None to not save it.
    """
    changed = False
    folders = Store(campaign.folder)
    for submission in state.submissions:
        folder = folders.submission(submission.number)
        for record in submission.jobs:
            if record.job is None:
                changed = True
                name = render.job_name(campaign.spec.name, folder, record.script)
                scheduler = make(campaign.site, submission.scheduler)
                record.job = scheduler.find(name, folder / record.script, record.identity)
        submission.jobs = [r for r in submission.jobs if r.job is not None]
    if changed and store is not None:
        store.save(state)
    return state
