"""Which task a run is of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import OpenSection, one_of
from hpcsamp.names import TASKS


class TaskSection(OpenSection):
    """``[task]``: what the targets are; further keys are arguments of the task's class.

    ``task = "regression"`` is short for a table with this kind alone.
    """

    kind: Annotated[str, one_of(TASKS)] | None = Field(
        None,
        description="a registered task, or package.module:Class; without: that of the dataset",
    )
