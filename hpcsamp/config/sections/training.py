"""Length and precision of a run, checkpoints, evaluations and checks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from hpcsamp.config.durations import seconds
from hpcsamp.config.section import MOST, NOTHING, RESULTS, Section
from hpcsamp.names import Precision


class TrainingSection(Section):
    """``[training]``: how long, how precise, how often."""

    epochs: int = Field(10, ge=1, le=MOST)
    steps: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="stop after so many steps, if that is before the last epoch's end; the "
        "schedule is that of the whole run, which --resume may go on with",
        json_schema_extra=RESULTS,
    )
    precision: Precision = Field(
        "float32", description="bfloat16: autocast, parameters stay float32"
    )
    evaluate_every: int = Field(
        1, ge=1, le=MOST, description="epochs between evaluations", json_schema_extra=RESULTS
    )
    checkpoint_every: int = Field(
        0,
        ge=0,
        le=MOST,
        description="steps between checkpoints; 0: every epoch",
        json_schema_extra=NOTHING,
    )
    checkpoint_behind: bool = Field(
        True,
        description="write checkpoints behind the next steps, from a copy of the state in memory; "
        "false: training waits, and needs no memory for a copy",
        json_schema_extra=NOTHING,
    )
    keep: int = Field(
        2, ge=1, le=MOST, description="checkpoints kept beside the best", json_schema_extra=NOTHING
    )
    log_every: int = Field(
        10,
        ge=1,
        le=MOST,
        description="steps between lines in metrics.jsonl",
        json_schema_extra=NOTHING,
    )
    best: str = Field(
        "nll",
        description="the metric of the validation items that decides which state is best.pt, one "
        "of the task's; rmse in place of nll where the loss leaves samples alone, which have no "
        "density",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights, which evaluations and "
        "predictions then use",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="evaluations without improvement of that metric after which the run ends",
        json_schema_extra=RESULTS,
    )
    min_delta: float = Field(
        0.0,
        ge=0,
        description="by how much the metric must be better to count as improved, in its units",
        json_schema_extra=RESULTS,
    )
    callbacks: list[str | dict[str, Any]] = Field(
        default_factory=list,
        description="code of your own that is called in the course of a run: package.module:Class, "
        'or {name = "package.module:Class", argument = ...}',
        json_schema_extra=RESULTS,
    )
    memory_check: Literal["refuse", "warn", "off"] = Field(
        "refuse",
        description="a run whose step needs more memory than the machine has",
        json_schema_extra=NOTHING,
    )
    stall: float = Field(
        600,
        ge=0,
        description="seconds without a sign of life of a rank after which the job is ended (three "
        "times the longest stretch seen, if that is more); 0: never",
        json_schema_extra=NOTHING,
    )
    time_limit: str | float | None = Field(
        None,
        description="stop with a checkpoint before so much time is over: minutes, or as Slurm "
        "writes it, e.g. 01:30:00; the end of a Slurm job is known without",
        json_schema_extra=NOTHING,
    )
    time_margin: float = Field(
        60,
        ge=0,
        description="seconds that must at least be left then (it grows as needed)",
        json_schema_extra=NOTHING,
    )

    @field_validator("time_limit")
    @classmethod
    def _a_duration(cls, value: str | float | None) -> str | float | None:
        if value is not None:
            seconds(value)
        return value
