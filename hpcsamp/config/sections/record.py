"""The table ``[record]``: trackers that the metrics of a run are written to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hpcsamp.config.section import NOTHING, Section


class RecordSection(Section):
    """``[record]``: trackers that the metrics of a run are written to."""

    to: list[Literal["tensorboard", "mlflow"]] = Field(
        default_factory=list,
        description="trackers whose files rank 0 writes into the run folder beside metrics.jsonl",
        json_schema_extra=NOTHING,
    )
