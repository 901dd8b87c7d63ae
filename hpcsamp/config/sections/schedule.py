"""The table ``[schedule]``: the learning rate over the course of a run."""

from __future__ import annotations

from pydantic import Field

from hpcsamp.config.section import MOST, OpenSection


class ScheduleSection(OpenSection):
    """``[schedule]``: any schedule of ``torch.optim.lr_scheduler``, advanced after every step."""

    name: str = "none"
    warmup_epochs: float = Field(
        0.0,
        ge=0,
        le=MOST,
        description="epochs over which the learning rate grows linearly from 0",
    )
