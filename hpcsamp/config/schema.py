"""The keys of a run, their types, defaults and meaning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from hpcsamp.config.durations import seconds
from hpcsamp.config.section import NOTHING, RESULTS, Section, one_of
from hpcsamp.names import (
    KL,
    LIKELIHOODS,
    LOSSES,
    MADE_UP,
    METHODS,
    MODELS,
    TASKS,
    TRANSPORTS,
    Memory,
    Precision,
    ReaderName,
    SampleAxis,
    Share,
    Shuffle,
    Strategy,
    Verify,
)

#: More samples, or more of anything else, than a run can have: a slip of the keyboard.
SAMPLES = 10**6
MOST = 10**9


class TaskSection(Section):
    """``[task]``: what the targets are; further keys are arguments of the task's class.

    ``task = "regression"`` is short for a table with this kind alone.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: Annotated[str, one_of(TASKS)] | None = Field(
        None,
        description="a registered task, or package.module:Class; without: that of the dataset",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the task's class gets: it checks them."""
        return dict(self.model_extra or {})


class SyntheticSection(Section):
    """``[data.synthetic]``: the made-up set that ``--data synthetic`` stands for."""

    like: Annotated[str, one_of(MADE_UP)] = Field(
        description="set to resemble, e.g. era5, or package.module:Class"
    )
    items: int = Field(1000, ge=10, le=MOST, description="in all splits together")
    seed: int = Field(0, ge=0, description="of the data")
    grid: tuple[int, int] | None = Field(
        None, description="latitudes and longitudes, where they are not to be era5's 121 and 240"
    )


class DataSection(Section):
    """``[data]``: what is learnt from and how it is fed."""

    path: str = Field(
        description="dataset folder, as written by hpcsamp ingest", json_schema_extra=RESULTS
    )
    batch: int = Field(64, ge=1, le=MOST, description="items per step over all data groups")
    accumulate: int = Field(
        1,
        ge=1,
        le=MOST,
        description="parts that the batch of a data group is taken in, one after the other: the "
        "step is the same, its activations are those of one part",
        json_schema_extra=NOTHING,
    )
    reader: ReaderName = Field(
        "auto",
        description="how shards are read; memory: once, and held on every node",
        json_schema_extra=NOTHING,
    )
    shuffle: bool | Shuffle = Field(
        True, description="a new order every epoch, drawn from the seed; pool keeps reads local"
    )
    verify: Verify = Field(
        "all",
        description="which chunks have their checksum compared on first read",
        json_schema_extra=NOTHING,
    )
    slots: int = Field(
        3,
        ge=2,
        le=64,
        description="batches that are prefetched, plus one",
        json_schema_extra=NOTHING,
    )
    synthetic: SyntheticSection | None = Field(
        None, description="what --data synthetic makes; a run's own config.toml has none"
    )


class AugmentSection(Section):
    """``[augment]``: random views of the training items, keyed per item and sample."""

    crop: int = Field(0, ge=0, le=10**5, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="mirror left to right, with probability 1/2")
    shift: bool = Field(False, description="periodic shift along the last axis (longitude)")
    transforms: list[dict[str, Any]] = Field(
        default_factory=list,
        description='torchvision.transforms.v2 by name, e.g. {name = "RandomRotation", ...}',
    )
    share: Share = Field(
        "sample", description="who sees a view of its own; rank depends on the number of ranks"
    )
    input: str | None = Field(
        None, description="which of several inputs; by default the only one that is an image"
    )

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.crop or self.flip or self.shift or self.transforms)


class ModelSection(Section):
    """``[model]``: a network by name and its arguments.

    Where the class has an argument that is called like one of the :attr:`SHARED` keys, it is that
    argument.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    SHARED: ClassVar[frozenset[str]] = frozenset(
        {"head", "output", "weights", "weights_strict", "freeze", "batch_norm"}
    )
    name: Annotated[str, one_of(MODELS)] = Field(
        description="a registered model, e.g. mlp or vit, or package.module:Class"
    )
    head: Any = Field(
        None, description="layer that is replaced by one with the outputs that the data ask for"
    )
    output: Any = Field(
        None, description="which of several tensors that the network returns, e.g. logits"
    )
    weights: Any = Field(
        None,
        description="initial weights: a .safetensors or .pt file, or the folder of a run",
        json_schema_extra=NOTHING,
    )
    weights_sha256: str | None = Field(
        None, description="checksum of these weights, written by the run"
    )
    weights_strict: Any = Field(
        None, description="false: names and shapes of model.weights need not all fit the network"
    )
    freeze: Any = Field(
        None, description='parameters that are not trained, by patterns, e.g. ["layer1.*"]'
    )
    batch_norm: Any = Field(
        None,
        description="batch: normalise by the whole batch of a step, over all ranks (default); "
        "frozen: by the running statistics; group: by group normalisation instead",
    )

    @property
    def shared(self) -> dict[str, Any]:
        """Given keys that may be arguments of the class."""
        given = {key: getattr(self, key) for key in sorted(self.SHARED)}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything else but the name: passed to the model's constructor, which checks it."""
        return dict(self.model_extra or {})


def _per_pass(value: Any, most: int, said: str) -> Any:
    """Samples of a pass: ``"auto"`` or from 1 to ``most``."""
    count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    if value == "auto" or count:
        return value
    reason = f'must be "auto" or a whole number from 1 to {said}'
    raise PydanticCustomError("kind", "{reason}", {"reason": reason})


class MethodSection(Section):
    """``[method]``: how weights are sampled; further keys are arguments of the method's class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[str, one_of(METHODS)] = Field(
        "mean_field",
        description="a registered method, e.g. mean_field or ensemble, or package.module:Class",
    )
    samples: int = Field(
        16, ge=1, le=SAMPLES, description="S, weight samples per step over a sample group"
    )
    samples_per_pass: Any = Field(
        "auto",
        description='samples evaluated at once, or "auto": what a short measurement finds fastest',
        json_schema_extra=NOTHING,
    )
    strategy: Strategy = Field(
        "auto", description="how they are evaluated at once", json_schema_extra=NOTHING
    )

    @field_validator("samples_per_pass")
    @classmethod
    def _chunk(cls, value: Any, info: ValidationInfo) -> Any:
        most = info.data.get("samples", SAMPLES)
        return _per_pass(value, most, f"method.samples = {most}")

    @property
    def chunk(self) -> int:
        """Samples evaluated at once, 1 where that is to be measured."""
        return 1 if self.samples_per_pass == "auto" else int(self.samples_per_pass)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the method's class gets beside samples: it checks them."""
        return dict(self.model_extra or {})


class LossSection(Section):
    """``[loss]``: what is minimised; further keys are arguments of the loss's class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[str, one_of(LOSSES)] = Field(
        "expected_nll", description="a registered loss, or package.module:Class"
    )
    exact: bool = Field(True, description="false: the paper's averaging of per-rank losses")
    temperature: float = Field(1.0, ge=0, description="factor of the KL; 1 is Bayes")
    kl_warmup_epochs: float = Field(
        0.0, ge=0, le=MOST, description="the KL's factor grows from 0 over these"
    )
    kl: KL = Field(
        "analytic", description="the KL by formula, or from the log densities of the draws"
    )
    memory: Memory = Field(
        "auto",
        description="which activations are kept for the backward pass",
        json_schema_extra=NOTHING,
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the loss's class gets: it checks them."""
        return dict(self.model_extra or {})


class LikelihoodSection(Section):
    """``[likelihood]``: what an output means; further keys are arguments of its class, e.g.
    ``std = 0.2`` of known noise.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    name: Annotated[str, one_of(LIKELIHOODS)] | None = Field(
        None,
        description="a registered likelihood, or package.module:Class; without: the usual one of "
        "the task and the loss",
    )

    @property
    def table(self) -> dict[str, Any]:
        """What is given of name and arguments; empty where nothing is."""
        return self.model_dump(exclude_none=True)


class GroupSection(Section):
    """One of ``[[optimizer.groups]]``: parameters with settings of their own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    pattern: str = Field("*", min_length=1, description="names of parameters, e.g. head.*")
    of: Literal["mean", "log_std"] | None = Field(
        None, description="only the means or standard deviations of random weights"
    )
    lr: float | None = Field(None, ge=0, description="learning rate, instead of optimizer.lr")

    @property
    def options(self) -> dict[str, Any]:
        """What is different from the optimiser's own settings."""
        own = {} if self.lr is None else {"lr": self.lr}
        return {**own, **(self.model_extra or {})}


class OptimizerSection(Section):
    """``[optimizer]``: any optimiser of ``torch.optim``, with its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "Adam"
    lr: float = Field(1e-3, gt=0)
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    sharded: bool = Field(
        False,
        description="each rank of a sample group keeps and updates 1/P of the state",
        json_schema_extra=NOTHING,
    )

    groups: list[GroupSection] = Field(
        default_factory=list,
        description="parameters with a learning rate, weight decay ... of their own, by patterns "
        "of their names",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the fields above: passed to the optimiser."""
        return {"lr": self.lr, **(self.model_extra or {})}


class ScheduleSection(Section):
    """``[schedule]``: any schedule of ``torch.optim.lr_scheduler``, stepped once per step."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "none"
    warmup_epochs: float = Field(
        0.0, ge=0, le=MOST, description="linear growth of the learning rate"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name and the warm-up: passed to the schedule."""
        return dict(self.model_extra or {})


class ParallelSection(Section):
    """``[parallel]``: the grid. Nothing here changes what is computed (law 1)."""

    samples: SampleAxis = Field("node", json_schema_extra=NOTHING)
    collectives: Annotated[str, one_of(TRANSPORTS)] = Field("auto", json_schema_extra=NOTHING)
    device: str = Field("auto", json_schema_extra=NOTHING)


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


class EvaluationSection(Section):
    """``[evaluation]``: the posterior predictive."""

    samples: int | None = Field(
        None,
        ge=1,
        le=SAMPLES,
        description="samples of the predictive distribution; without: as many as the method has, "
        "32 where it can draw any number",
        json_schema_extra=RESULTS,
    )
    batch: int = Field(256, ge=1, le=MOST, description="items at once", json_schema_extra=RESULTS)
    bins: int = Field(
        15, ge=2, le=10**5, description="bins of the calibration metrics", json_schema_extra=RESULTS
    )
    samples_per_pass: Any = Field(
        None,
        description='samples evaluated at once, or "auto"; without: as method.samples_per_pass',
        json_schema_extra=NOTHING,
    )

    batch_norm: Literal["running", "estimated"] | None = Field(
        None,
        description="statistics of batch normalisation: the running ones, or estimated for each "
        "prediction sample from the training set; without: estimated for swag alone",
        json_schema_extra=RESULTS,
    )
    batch_norm_items: int = Field(
        4096,
        ge=1,
        le=MOST,
        description="items of the training set that they are estimated from",
        json_schema_extra=RESULTS,
    )

    @field_validator("samples_per_pass")
    @classmethod
    def _chunk(cls, value: Any) -> Any:
        return None if value is None else _per_pass(value, SAMPLES, str(SAMPLES))


class RunConfig(Section):
    """A whole run."""

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

    @field_validator("task", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


def section(name: str) -> type[BaseModel] | None:
    """The class of a table of the configuration; None if there is none of this name."""
    field = RunConfig.model_fields.get(name)
    kind = field.annotation if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def changes(key: str) -> str | None:
    """What a dotted key changes of a run: ``"weights"``, ``"results"`` or ``"nothing"``, as marked
    on the field; None for an argument of a model, method, loss ..., whose class has the mark.
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
