"""The grid of ranks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import NOTHING, Section, one_of
from hpcsamp.names import TRANSPORTS, SampleAxis


class ParallelSection(Section):
    """``[parallel]``: the grid. Nothing here changes what is computed (law 1)."""

    samples: SampleAxis = Field("node", json_schema_extra=NOTHING)
    model: int = Field(
        1,
        ge=1,
        description="ranks that hold one network and one item in parts (M)",
        json_schema_extra=NOTHING,
    )
    collectives: Annotated[str, one_of(TRANSPORTS)] = Field("auto", json_schema_extra=NOTHING)
    device: str = Field("auto", json_schema_extra=NOTHING)
