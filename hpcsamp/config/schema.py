"""The schema of the configuration of a run, and the results that each of its keys affects."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, field_validator

from hpcsamp.config.section import Section
from hpcsamp.config.sections.augment import AugmentSection
from hpcsamp.config.sections.data import DataSection
from hpcsamp.config.sections.evaluation import EvaluationSection
from hpcsamp.config.sections.likelihood import LikelihoodSection
from hpcsamp.config.sections.loss import LossSection
from hpcsamp.config.sections.method import MethodSection
from hpcsamp.config.sections.model import ModelSection
from hpcsamp.config.sections.optimizer import OptimizerSection
from hpcsamp.config.sections.parallel import ParallelSection
from hpcsamp.config.sections.record import RecordSection
from hpcsamp.config.sections.schedule import ScheduleSection
from hpcsamp.config.sections.task import TaskSection
from hpcsamp.config.sections.training import TrainingSection


class RunConfig(Section):
    """The configuration of a run; each field is a table of the TOML file."""

    seed: int = Field(1, ge=0, le=2**32 - 1)
    task: TaskSection = TaskSection()
    data: DataSection
    augment: AugmentSection = AugmentSection()
    model: ModelSection
    method: MethodSection = MethodSection()
    loss: LossSection = LossSection()
    likelihood: LikelihoodSection = LikelihoodSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    parallel: ParallelSection = ParallelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    record: RecordSection = RecordSection()

    @field_validator("task", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


def section(name: str) -> type[BaseModel] | None:
    """Return the class of a table of the configuration; None if there is no table of this name."""
    field = RunConfig.model_fields.get(name)
    kind = field.annotation if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def changes(key: str) -> str | None:
    """Return whether a dotted key of the configuration affects weights, results or nothing.

    Returns
    -------
    str or None
        ``"weights"``, ``"results"`` or ``"nothing"``, as marked on the field. None for an argument
        of a model, method, loss ..., which is marked on its class.
    """
    table, _, name = key.partition(".")
    kind = section(table)
    if kind is None or not name:
        return "weights"
    known = kind.model_fields.get(name.split(".")[0])
    if known is None:
        return None
    marks = known.json_schema_extra
    return str(marks["changes"]) if isinstance(marks, dict) else "weights"
