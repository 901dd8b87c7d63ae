"""The schema of a run: TOML in, checked values out. Unknown keys are errors with a suggestion."""

from hpcsamp.config.durations import seconds
from hpcsamp.config.kinds import refused
from hpcsamp.config.messages import explain, known_keys, suggest
from hpcsamp.config.reading import (
    apply_overrides,
    apply_preset,
    check,
    load,
    named_configs,
    parse_override,
    to_toml,
)
from hpcsamp.config.schema import (
    AugmentSection,
    DataSection,
    EvaluationSection,
    LossSection,
    MethodSection,
    ModelSection,
    OptimizerSection,
    ParallelSection,
    RunConfig,
    ScheduleSection,
    Section,
    SyntheticSection,
    TrainingSection,
)

__all__ = [
    "AugmentSection",
    "DataSection",
    "EvaluationSection",
    "LossSection",
    "MethodSection",
    "ModelSection",
    "OptimizerSection",
    "ParallelSection",
    "RunConfig",
    "ScheduleSection",
    "Section",
    "SyntheticSection",
    "TrainingSection",
    "apply_overrides",
    "apply_preset",
    "check",
    "explain",
    "known_keys",
    "load",
    "named_configs",
    "parse_override",
    "refused",
    "seconds",
    "suggest",
    "to_toml",
]
