"""The schema of a run: TOML in, checked values out. Unknown keys are errors with a suggestion."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hpcsamp.errors import UsageError


class Section(BaseModel):
    """A table of the configuration: no unknown keys, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class SyntheticSection(Section):
    """``[data.synthetic]``: the made-up set that ``--data synthetic`` stands for."""

    like: Literal["digits", "cifar10", "entsoe", "era5"] = Field(description="set to resemble")
    items: int = Field(1000, ge=10, description="in all splits together")
    seed: int = Field(0, ge=0, description="of the data")
    grid: tuple[int, int] | None = Field(
        None, description="latitudes and longitudes, where they are not to be era5's 121 and 240"
    )


class DataSection(Section):
    """``[data]``: what is learnt from and how it is fed."""

    path: str = Field(description="dataset folder, as written by hpcsamp ingest")
    batch: int = Field(64, ge=1, description="items per step over all data groups")
    reader: Literal["auto", "direct", "serial", "collective", "broadcast", "memory"] = Field(
        "auto", description="how shards are read; memory: once, and held on every node"
    )
    shuffle: bool | Literal["global", "pool", "none"] = Field(
        True, description="a new order every epoch, drawn from the seed; pool keeps reads local"
    )
    verify: Literal["all", "sampled", "off"] = Field(
        "all", description="which chunks have their checksum compared on first read"
    )
    slots: int = Field(3, ge=2, le=64, description="batches that are prefetched, plus one")
    synthetic: SyntheticSection | None = Field(
        None, description="what --data synthetic makes; a run's own config.toml has none"
    )


class AugmentSection(Section):
    """``[augment]``: random views of the training items, keyed per item and sample."""

    crop: int = Field(0, ge=0, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="mirror left to right, with probability 1/2")
    shift: bool = Field(False, description="periodic shift along the last axis (longitude)")
    transforms: list[dict[str, Any]] = Field(
        default_factory=list,
        description='torchvision.transforms.v2 by name, e.g. {name = "RandomRotation", ...}',
    )
    share: Literal["sample", "rank", "all"] = Field(
        "sample", description="who sees a view of its own; rank depends on the number of ranks"
    )

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.crop or self.flip or self.shift or self.transforms)


class ModelSection(Section):
    """``[model]``: a registered model and its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(description="a registered model, e.g. mlp or vit")

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name: passed to the model's constructor, which checks it."""
        return dict(self.model_extra or {})


class MethodSection(Section):
    """``[method]``: how weights are sampled; further keys are arguments of the method's class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field("mean_field", description="a registered method, e.g. mean_field or ensemble")
    samples: int = Field(16, ge=1, description="S, weight samples per step over a sample group")
    samples_per_pass: int = Field(
        1, ge=1, description="samples evaluated at once; 1 loops, more is vectorised"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the method's class gets beside samples: it checks them."""
        return dict(self.model_extra or {})


class LossSection(Section):
    """``[loss]``: what is minimised."""

    name: str = Field("expected_nll", description="a registered loss")
    exact: bool = Field(True, description="false: the paper's averaging of per-rank losses")
    temperature: float = Field(1.0, ge=0, description="factor of the KL; 1 is Bayes")
    kl_warmup_epochs: float = Field(
        0.0, ge=0, description="the KL's factor grows from 0 over these"
    )
    kl: Literal["analytic", "monte_carlo"] = Field(
        "analytic", description="the KL by formula, or from the log densities of the draws"
    )
    memory: Literal["auto", "keep", "stream", "recompute"] = Field(
        "auto", description="which activations are kept for the backward pass"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the loss itself, e.g. the noise std"
    )


class OptimizerSection(Section):
    """``[optimizer]``: any optimiser of ``torch.optim``, with its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "Adam"
    lr: float = Field(1e-3, gt=0)
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    sharded: bool = Field(
        False, description="each rank of a sample group keeps and updates 1/P of the state"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but name, clip and sharded: passed to the optimiser."""
        return {"lr": self.lr, **(self.model_extra or {})}


class ScheduleSection(Section):
    """``[schedule]``: any schedule of ``torch.optim.lr_scheduler``, stepped once per step."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "none"
    warmup_epochs: float = Field(0.0, ge=0, description="linear growth of the learning rate")

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name and the warm-up: passed to the schedule."""
        return dict(self.model_extra or {})


class ParallelSection(Section):
    """``[parallel]``: the grid. Nothing here changes what is computed (law 1)."""

    samples: Literal["node", "world", "none"] | int = "node"
    collectives: Literal["auto", "horovod", "mpi"] = "auto"
    device: str = "auto"


class TrainingSection(Section):
    """``[training]``: how long, how precise, how often."""

    epochs: int = Field(10, ge=1)
    steps: int | None = Field(
        None,
        ge=1,
        description="stop after so many steps, if that is before the last epoch's end; the "
        "schedule is that of the whole run, which --resume may go on with",
    )
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast, parameters stay float32"
    )
    evaluate_every: int = Field(1, ge=1, description="epochs between evaluations")
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: every epoch")
    keep: int = Field(2, ge=1, description="checkpoints kept beside the best")
    log_every: int = Field(10, ge=1, description="steps between lines in metrics.jsonl")
    best: Literal["nll", "accuracy", "loss"] = "nll"
    memory_check: Literal["refuse", "warn", "off"] = Field(
        "refuse", description="a run whose step needs more memory than the machine has"
    )
    time_limit: str | float | None = Field(
        None,
        description="stop with a checkpoint before so much time is over: minutes, or as Slurm "
        "writes it, e.g. 01:30:00; the end of a Slurm job is known without",
    )
    time_margin: float = Field(
        60, ge=0, description="seconds that must at least be left then (it grows as needed)"
    )

    @field_validator("time_limit")
    @classmethod
    def _a_duration(cls, value: str | float | None) -> str | float | None:
        if value is not None:
            seconds(value)
        return value


class EvaluationSection(Section):
    """``[evaluation]``: the posterior predictive."""

    samples: int | None = Field(
        None,
        ge=1,
        description="samples of the predictive distribution; without: as many as the method has, "
        "32 where it can draw any number",
    )
    batch: int = Field(256, ge=1, description="items at once")
    bins: int = Field(15, ge=2, description="bins of the calibration metrics")


class RunConfig(Section):
    """A whole run."""

    seed: int = Field(1, ge=0, le=2**32 - 1)
    task: Literal["classification", "regression"] = "classification"
    data: DataSection
    augment: AugmentSection = AugmentSection()
    model: ModelSection
    method: MethodSection = MethodSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    parallel: ParallelSection = ParallelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()


def seconds(duration: str | float) -> float:
    """Seconds of a duration as Slurm writes it.

    Parameters
    ----------
    duration
        Minutes (a number, or ``"90"``), ``"minutes:seconds"``, ``"hours:minutes:seconds"``,
        ``"days-hours"``, ``"days-hours:minutes"`` or ``"days-hours:minutes:seconds"``.

    Raises
    ------
    ValueError
        If it is none of these, or not positive.
    """
    text = str(duration).strip()
    days, dash, rest = text.rpartition("-")
    try:
        parts = [float(p) for p in rest.split(":")]
        whole = float(days) if dash else 0.0
    except ValueError:
        parts, whole = [], 0.0
    if dash and 1 <= len(parts) <= 3:
        parts += [0.0] * (3 - len(parts))
    elif not dash and len(parts) <= 2:
        parts = [0.0, *parts, 0.0][:3]
    total = 0.0
    if len(parts) == 3 and min(parts) >= 0 and whole >= 0:
        total = whole * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    if not 0 < total < float("inf"):
        raise ValueError(
            f"{text!r} is not a duration: minutes, or e.g. 01:30:00 (hours:minutes:seconds)"
        )
    return total


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of every key of the schema."""
    names = []
    for name, field in section.model_fields.items():
        names.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += known_keys(kind, f"{prefix}{name}.")
    return names


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'lr'?`` for the nearest known name, or nothing."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:  # the right key in the wrong table
        last = name.rsplit(".", 1)[-1]
        ends = {k.rsplit(".", 1)[-1]: k for k in known}
        near = [ends[m] for m in difflib.get_close_matches(last, ends, n=1, cutoff=0.75)]
    return f"; did you mean {near[0]!r}?" if near else ""


def explain(error: ValidationError) -> str:
    """All faults of a configuration in one line, each with its key and a mend."""
    lines = []
    for fault in error.errors():
        name = ".".join(str(p) for p in fault["loc"] if p not in ("int", "float", "str"))
        if fault["type"] == "extra_forbidden":
            line = f"unknown key {name!r}{suggest(name, known_keys(RunConfig))}"
        elif fault["type"] == "missing":
            line = f"{name} is missing"
        else:
            line = f"{name} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        if line not in lines:
            lines.append(line)
    return "; ".join(lines)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Read one ``--set optimizer.lr=1e-3``; the value is TOML, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text!r}: expected KEY=VALUE, e.g. --set optimizer.lr=1e-3")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return name.strip().split("."), parsed


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a configuration table with ``--set`` values put in."""
    result = json.loads(json.dumps(table))
    for text in overrides:
        path, value = parse_override(text)
        place = result
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {text!r}: {part!r} is a value, not a table")
        place[path[-1]] = value
    return result


def check(table: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """A checked configuration.

    Raises
    ------
    UsageError
        Naming every wrong key, with a suggestion.
    """
    try:
        return RunConfig.model_validate(dict(table))
    except ValidationError as e:
        raise UsageError(f"{source}: {explain(e)}") from None


def named_configs() -> list[str]:
    """Configurations that come with the package."""
    folder = resources.files("hpcsamp") / "configs"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def apply_preset(table: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """A copy of a configuration table without its presets, one of which has its keys put in.

    Parameters
    ----------
    table
        As in the file; ``[preset.NAME]`` holds keys that replace those of the file, table by table.
    preset
        Which one; None for none.

    Raises
    ------
    UsageError
        If there is no such preset, or ``preset`` is not a table of tables.
    """
    result = json.loads(json.dumps(dict(table)))
    presets = result.pop("preset", {})
    if not isinstance(presets, dict) or not all(isinstance(p, dict) for p in presets.values()):
        raise UsageError("preset: tables [preset.NAME] are needed")
    if preset is None:
        return result
    if preset not in presets:
        known = ", ".join(presets) or "none"
        raise UsageError(f"--preset {preset}: there is {known}{suggest(preset, presets)}")
    _put_in(result, presets[preset])
    return result


def _put_in(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _put_in(table[key], value)
        else:
            table[key] = value


def load(
    name: str | Path, overrides: Sequence[str] = (), *, preset: str | None = None
) -> RunConfig:
    """Read a configuration: a file, or the name of one that comes with the package.

    Parameters
    ----------
    name
        Path of a TOML file, or e.g. ``vit-digits``.
    overrides
        ``KEY=VALUE`` strings, see :func:`parse_override`; they win over a preset.
    preset
        One of the file's presets, see :func:`apply_preset`.

    Raises
    ------
    UsageError
        If it cannot be read, there is no such preset, or a key or value is wrong.
    """
    path = Path(name)
    if path.is_file():
        text = path.read_text()
    elif str(name) in named_configs():
        text = (resources.files("hpcsamp") / "configs" / f"{name}.toml").read_text()
    else:
        known = ", ".join(named_configs())
        raise UsageError(f"no configuration {name}: not a file, and not one of {known}")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{name} is not valid TOML: {e}") from None
    return check(apply_overrides(apply_preset(table, preset), overrides), str(name))


def to_toml(config: RunConfig) -> str:
    """The resolved configuration as TOML, every default written out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))
