"""The table ``[task]``: classification, regression or another task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import OpenSection, one_of
from hpcsamp.names import TASKS


class TaskSection(OpenSection):
    """``[task]``: the kind of targets; additional keys are arguments of the task's class.

    ``task = "regression"`` is short for a table with this kind and no arguments.
    """

    kind: Annotated[str, one_of(TASKS)] | None = Field(
        None,
        description="a registered task, or package.module:Class; default: the task of the dataset",
    )
