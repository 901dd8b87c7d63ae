"""The learning rate over the course of a run."""

from __future__ import annotations

from pydantic import Field

from hpcsamp.config.section import MOST, OpenSection


class ScheduleSection(OpenSection):
    """``[schedule]``: any schedule of ``torch.optim.lr_scheduler``, stepped once per step."""

    name: str = "none"
    warmup_epochs: float = Field(
        0.0, ge=0, le=MOST, description="linear growth of the learning rate"
    )
