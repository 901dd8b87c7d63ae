"""Length and precision of a run, checkpoints, evaluations and checks."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from hpcsamp.config.durations import seconds
from hpcsamp.config.section import MOST, NOTHING, RESULTS, Section
from hpcsamp.names import GraphsKey, Precision


class TrainingSection(Section):
    """``[training]``: length and precision of a run, checkpoints, evaluations and checks."""

    epochs: int = Field(10, ge=1, le=MOST)
    steps: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="stop after this many steps if the last epoch has not ended before; the "
        "learning rate schedule is that of the whole run, which --resume can continue",
        json_schema_extra=RESULTS,
    )
    rollout: int | list[tuple[int, int]] = Field(
        1,
        description="number of steps k for which the network is applied to its own outputs in "
        "training, or a curriculum of pairs [k, epochs], such as [[1, 10], [4, 5]]",
    )
    lead_weights: list[float] = Field(
        default_factory=list,
        description="weights of the losses at the lead times of a rollout, divided by their sum; "
        "empty: the same for all",
    )
    precision: Precision = Field(
        "float32", description="bfloat16: autocast, parameters stay float32"
    )
    compile: bool = Field(
        False,
        description="evaluate samples in training by functions that torch.compile compiles before "
        "the first step",
        json_schema_extra=NOTHING,
    )
    graphs: GraphsKey = Field(
        False,
        description="replay the draws and passes of a step from a CUDA graph, which the first step "
        "captures (mean_field and mc_dropout with a loss that is linear in the samples, on a GPU); "
        "auto: if nothing prevents it",
        json_schema_extra=NOTHING,
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
        description="write checkpoints in the background from a copy of the state in memory; "
        "false: training waits and needs no memory for a copy",
        json_schema_extra=NOTHING,
    )
    keep: int = Field(
        2,
        ge=1,
        le=MOST,
        description="number of checkpoints kept besides best.pt",
        json_schema_extra=NOTHING,
    )
    log_every: int = Field(
        10,
        ge=1,
        le=MOST,
        description="steps between two lines of metrics.jsonl",
        json_schema_extra=NOTHING,
    )
    best: str = Field(
        "nll",
        description="validation metric that selects the state saved as best.pt, one of the "
        "task's metrics; rmse replaces nll if the loss defines no likelihood",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights that evaluations and "
        "predictions use",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="end the run after this many evaluations without an improvement of that metric",
        json_schema_extra=RESULTS,
    )
    min_delta: float = Field(
        0.0,
        ge=0,
        description="smallest change of the metric, in its own units, that counts as an "
        "improvement",
        json_schema_extra=RESULTS,
    )
    callbacks: list[str | dict[str, Any]] = Field(
        default_factory=list,
        description="your own code to call during a run: package.module:Class, "
        'or {name = "package.module:Class", argument = ...}',
        json_schema_extra=RESULTS,
    )
    memory_check: Literal["refuse", "warn", "off"] = Field(
        "refuse",
        description="action if a training step needs more memory than the machine has",
        json_schema_extra=NOTHING,
    )
    stall: float = Field(
        600,
        ge=0,
        description="end the job if a rank makes no progress for this many seconds (or three "
        "times the longest pause so far, if that is longer); 0: never",
        json_schema_extra=NOTHING,
    )
    time_limit: str | float | None = Field(
        None,
        description="time limit, before which the run stops with a checkpoint: minutes, or "
        "Slurm's notation, e.g. 01:30:00; the time limit of a Slurm job is detected "
        "automatically",
        json_schema_extra=NOTHING,
    )
    time_margin: float = Field(
        60,
        ge=0,
        description="seconds reserved for stopping before the time limit (more if a checkpoint "
        "takes longer)",
        json_schema_extra=NOTHING,
    )

    @field_validator("rollout")
    @classmethod
    def _of_steps(cls, value: int | list[tuple[int, int]], info: ValidationInfo) -> Any:
        phases = [(value, 1)] if isinstance(value, int) else value
        reason = ""
        if not phases or min(n for phase in phases for n in phase) < 1:
            reason = "steps and epochs must be at least 1, e.g. 4 or [[1, 10], [4, 5]]"
        elif not isinstance(value, int) and "epochs" in info.data:
            epochs, given = info.data["epochs"], sum(n for _, n in value)
            if given != epochs:
                reason = f"the curriculum has {given} epochs, but training.epochs = {epochs}"
        if reason:
            raise PydanticCustomError("rollout", "{reason}", {"reason": reason})
        return value

    @field_validator("lead_weights")
    @classmethod
    def _for_all_leads(cls, value: list[float], info: ValidationInfo) -> list[float]:
        rollout = info.data.get("rollout", 1)
        steps = {rollout} if isinstance(rollout, int) else {k for k, _ in rollout}
        reason = ""
        if value and (len(value) < max(steps) or min(value) < 0):
            reason = f"a weight of at least 0 for each of {max(steps)} lead times is needed"
        elif value and not all(sum(value[:k]) > 0 for k in steps):
            reason = f"the weights of the first {min(steps)} lead times are all 0"
        if reason:
            raise PydanticCustomError("weights", "{reason}", {"reason": reason})
        return value

    def rollout_at(self, epoch: int) -> int:
        """Number of steps of the rollout in an epoch, counted from 0."""
        if isinstance(self.rollout, int):
            return self.rollout
        ends = itertools.accumulate(epochs for _, epochs in self.rollout)
        return next(k for (k, _), end in zip(self.rollout, ends, strict=True) if epoch < end)

    @property
    def longest_rollout(self) -> int:
        """Largest number of steps of a rollout."""
        return self.rollout if isinstance(self.rollout, int) else max(k for k, _ in self.rollout)

    @field_validator("time_limit")
    @classmethod
    def _a_duration(cls, value: str | float | None) -> str | float | None:
        if value is not None:
            seconds(value)
        return value
