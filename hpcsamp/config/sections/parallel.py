"""The table ``[parallel]``: the grid of ranks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import NOTHING, Section, one_of
from hpcsamp.names import TRANSPORTS, SampleAxis


class ParallelSection(Section):
    """``[parallel]``: the grid of ranks, which does not change the results (design law 1)."""

    samples: SampleAxis = Field("node", json_schema_extra=NOTHING)
    model: int = Field(
        1,
        ge=1,
        description="model ranks (M), over which the network and each item are split",
        json_schema_extra=NOTHING,
    )
    collectives: Annotated[str, one_of(TRANSPORTS)] = Field("auto", json_schema_extra=NOTHING)
    buckets: int = Field(
        1,
        ge=1,
        description="largest number of parts in which the gradient is exchanged, each as soon as "
        "the backward pass has finished it (mc_dropout; mean_field and ivon with loss.memory = "
        "stream or recompute)",
        json_schema_extra=NOTHING,
    )
    device: str = Field("auto", json_schema_extra=NOTHING)
