"""The configuration of a run: its schema, and functions that read and check TOML.

Unknown keys are errors with a suggestion.
"""

from hpcsamp.config.checking import CLASSES, Known, check, name_key
from hpcsamp.config.durations import seconds
from hpcsamp.config.former import converted
from hpcsamp.config.kinds import refused
from hpcsamp.config.messages import explain, known_keys
from hpcsamp.config.reading import (
    apply_overrides,
    apply_preset,
    chosen_toml,
    load,
    named_configs,
    parse_override,
    to_toml,
)
from hpcsamp.config.schema import RunConfig, changes, section
from hpcsamp.config.section import NOTHING, RESULTS, Section, one_of
from hpcsamp.config.sections.augment import AugmentSection
from hpcsamp.config.sections.data import DataSection, SyntheticSection
from hpcsamp.config.sections.evaluation import EvaluationSection
from hpcsamp.config.sections.likelihood import LikelihoodSection
from hpcsamp.config.sections.loss import LossSection
from hpcsamp.config.sections.method import MethodSection
from hpcsamp.config.sections.model import ModelSection
from hpcsamp.config.sections.optimizer import OptimizerSection
from hpcsamp.config.sections.parallel import ParallelSection
from hpcsamp.config.sections.schedule import ScheduleSection
from hpcsamp.config.sections.task import TaskSection
from hpcsamp.config.sections.training import TrainingSection
from hpcsamp.config.tables import flatten, put, written
from hpcsamp.config.toml import (
    exists,
    join_key,
    parse_toml,
    read_toml,
    split_key,
    toml_value,
    unwritable,
)

__all__ = [
    "CLASSES",
    "NOTHING",
    "RESULTS",
    "AugmentSection",
    "DataSection",
    "EvaluationSection",
    "Known",
    "LikelihoodSection",
    "LossSection",
    "MethodSection",
    "ModelSection",
    "OptimizerSection",
    "ParallelSection",
    "RunConfig",
    "ScheduleSection",
    "Section",
    "SyntheticSection",
    "TaskSection",
    "TrainingSection",
    "apply_overrides",
    "apply_preset",
    "changes",
    "check",
    "chosen_toml",
    "converted",
    "exists",
    "explain",
    "flatten",
    "join_key",
    "known_keys",
    "load",
    "name_key",
    "named_configs",
    "one_of",
    "parse_override",
    "parse_toml",
    "put",
    "read_toml",
    "refused",
    "seconds",
    "section",
    "split_key",
    "to_toml",
    "toml_value",
    "unwritable",
    "written",
]
