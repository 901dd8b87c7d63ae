"""Schema of ``[stage.NAME]`` of a campaign file: jobs that follow the points."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hpcsamp.errors import UsageError
from hpcsamp.spelling import suggest

POINTS = "train"
"""Name of the points of the file themselves, as stages refer to them."""

# fmt: off
RESERVED = frozenset({
    "again", "array", "before", "campaign", "cancelled", "code", "config", "count", "exclude",
    "failed", "field", "fields", "file", "folder", "index", "job", "kind", "launched", "line",
    "log", "modules", "name", "name_of_log", "pass", "point", "running", "settings", "stalled",
    "starts", "submission", "told", "whole",
})
# fmt: on
"""Variables of job scripts, which a stage must not replace."""


class Stage(BaseModel):
    """Table ``[stage.NAME]``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    needs: list[str] = Field(
        [], description="stages that must be done before (default: the one before, or train)"
    )
    every: bool = Field(
        False, description="wait for all points of the needed stages; else one job for each point"
    )
    product: dict[str, Any] = Field(
        default_factory=dict, description="axes of a stage that waits for every point"
    )
    commands: list[str] = Field(min_length=1, description="shell lines")
    results: list[str] = Field(min_length=1, description="result files")
    resources: dict[str, Any] = Field(default_factory=dict, description="as [resources]")


def needed(stages: Mapping[str, Stage], name: str) -> tuple[str, ...]:
    """Return the stages that a stage needs."""
    names = [POINTS, *stages]
    return tuple(stages[name].needs) or (names[names.index(name) - 1],)


def check(stages: Mapping[str, Stage]) -> None:
    """Check names and needs, and that points do not follow a stage that has other points.

    Raises
    ------
    UsageError
        If a stage is wrong; the message names it.
    """
    before = [POINTS]
    for name, stage in stages.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or name in {POINTS, *RESERVED}:
            raise UsageError(
                f"[stage.{name}]: another name is needed: small letters, digits and '_', none of "
                f"the variables of job scripts"
            )
        for need in stage.needs:
            if need not in before:
                raise UsageError(
                    f"[stage.{name}] needs {need!r}, which is not above it{suggest(need, before)}"
                )
        if stage.product and not stage.every:
            raise UsageError(f"[stage.{name}.product] needs every = true")
        followed: Iterable[str] = needed(stages, name)
        for need in followed:
            if not stage.every and need != POINTS and stages[need].every:
                raise UsageError(
                    f"[stage.{name}] needs {need}, which has no job for each point: "
                    f"write every = true"
                )
        before.append(name)
