"""What a run asks of a machine, whatever the grid: a configuration in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from hpcsamp.collectives import SMALL
from hpcsamp.config import RunConfig, load, named_configs
from hpcsamp.errors import UsageError
from hpcsamp.losses import Shared
from hpcsamp.methods import Method
from hpcsamp.methods.passing import ALL
from hpcsamp.names import Precision, Share
from hpcsamp.planning import parted
from hpcsamp.planning.counts import Counts, count
from hpcsamp.run.assemble import Run
from hpcsamp.run.shapes import Shapes
from hpcsamp.spelling import suggest

BYTES = {"float32": 4, "float64": 8, "bfloat16": 4}
HOROVOD_FROM = {"auto": SMALL, "horovod": 0}


@dataclass(frozen=True)
class Workload:
    """A run's step, before it is split.

    Attributes
    ----------
    name
        Of the model.
    key
        What a calibration knows it by: model with arguments, shapes, method, precision.
    samples, batch
        ``S``; items of a step over all data groups.
    weights, drawn, trained
        Numbers: of the network; random ones among them, drawn per sample; what the optimiser
        updates.
    item
        Bytes of a trained number.
    own
        Whether each sample has parameters of its own, which are not exchanged between samples.
    counts
        Of one sample's passes.
    x_bytes, stored_bytes
        Of an item in a step; of an item in its file.
    values
        Numbers that a loss compares per item (``V``).
    statistics, gathers
        The exchanges of a loss, and whether these are outputs that everybody gets.
    views
        ``"none"`` without augmentation, else who gets a view of an item: ``"all"``, ``"rank"``,
        ``"sample"``.
    sharded, recompute
        ``optimizer.sharded``; whether passes are made twice to save memory.
    shares
        Whether the sample ranks hold a share of the weights each (``optimizer.sharded =
        "weights"``), which are then gathered for each pass.
    together
        Samples of a rank that are evaluated in one pass; 0: all.
    precision
        As in the configuration.
    horovod_from
        Bytes from which Horovod exchanges a gradient that lies in host memory (those on GPUs it
        always does); infinite without Horovod.
    model
        ``M``: ranks that hold the network in parts. Numbers, counts and bytes above are those of
        the fullest of these ranks; ``values``, too.
    model_sizes
        All that ``M`` may be.
    of_part
        The same run with another ``M`` of these; None if there is no other.
    """

    name: str
    key: str
    samples: int
    batch: int
    weights: int
    drawn: int
    trained: int
    counts: Counts
    x_bytes: float
    stored_bytes: float
    values: int = 1
    item: int = 4
    own: bool = False
    statistics: tuple[Shared, ...] = ()
    gathers: bool = False
    views: Share | Literal["none"] = "none"
    sharded: bool = False
    recompute: bool = False
    shares: bool = False
    together: int = 1
    precision: Precision = "float32"
    horovod_from: float = 0.0
    model: int = 1
    model_sizes: tuple[int, ...] = (1,)
    of_part: Callable[[int], Workload] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, config: RunConfig, shapes: Shapes, model: int = 1) -> Workload:
        """Of a configuration and the shapes of its data, on the fullest of ``model`` ranks.

        Raises
        ------
        UsageError
            If model, method, loss and data do not fit, or the network cannot be counted.
        """
        run = parted.blank(config, shapes, model=model)
        method, (network, axis) = run.method, parted.network(config, shapes, model)
        held = parted.Held.of(run)
        precision = config.training.precision
        item = BYTES[precision]
        spread = getattr(method, "log_std", None)
        about = run.data_loss.about if config.loss.exact else None
        return cls(
            name=config.model.name,
            key=key_of(run),
            samples=config.method.samples,
            batch=config.data.batch,
            weights=sum(p.numel() for p in network.parameters()),
            drawn=spread.numel() if spread is not None else 0,
            trained=sum(p.numel() for p in method.parameters() if p.requires_grad),
            item=item,
            own=method.placement.replicas == "data",
            counts=count(
                network,
                parted.inputs(shapes, method.spread, torch.float32),
                {"float32": 4, "float64": 8, "bfloat16": 2}[precision],
                axis=axis,
            ),
            x_bytes=shapes.batch_bytes(item) * held.inputs,
            stored_bytes=held.stored(shapes),
            values=1 if run.task.labels else round(shapes.target_values * held.outputs),
            statistics=about.exchanges if about else (),
            gathers=about is not None and about.kind == "pairwise",
            views=config.augment.share if config.augment.active else "none",
            sharded=bool(config.optimizer.sharded),
            shares=config.optimizer.sharded == "weights",
            together=_together(method),
            recompute=config.loss.memory == "recompute",
            precision=precision,
            horovod_from=HOROVOD_FROM.get(config.parallel.collectives, math.inf),
            model=model,
        )

    @classmethod
    def on(cls, config: RunConfig, shapes: Shapes, ranks: int) -> Workload:
        """The same in one piece, with all that it may be in parts on some ranks.

        Raises
        ------
        UsageError
            If nothing fits, see also :func:`.parted.sizes`.
        """
        found = parted.sizes(config, shapes, ranks)
        of_part = cache(partial(cls.of, config, shapes))
        return replace(of_part(1), model_sizes=tuple(found), of_part=of_part)

    def on_model_ranks(self, model: int) -> Workload:
        """The run as the fullest of so many model ranks has it."""
        if model == self.model:
            return self
        if self.of_part is None:
            raise UsageError(f"{self.name} is planned for M = {self.model}, not for {model}")
        return self.of_part(model)

    def scaled(self, **changes: Any) -> Workload:
        """The same with e.g. other ``samples`` or ``batch``, also in parts."""
        of_part = self.of_part and cache(partial(_scaled, self.of_part, changes))
        return replace(self, **changes, of_part=of_part)

    def without_feed(self) -> Workload:
        """The step from a batch that is there, as it is."""
        return self.scaled(stored_bytes=0.0, views="none")


def _scaled(of_part: Callable[[int], Workload], changes: Mapping[str, Any], model: int) -> Workload:
    return of_part(model).scaled(**changes)


def _together(method: Method) -> int:
    """Samples of a pass; 0 for all of a rank's."""
    chunk = method.samples_per_pass
    return chunk if chunk < ALL else 0


def key_of(run: Run) -> str:
    """One line that tells whether measured passes are those of this run."""
    config, shapes = run.config, run.shapes
    arguments = " ".join(f"{k}={v}" for k, v in sorted(config.model.arguments.items()))
    shape = shapes.told("x")
    return (
        f"{config.model.name} {arguments} in={shape} out={run.outputs} "
        f"{config.method.name} {config.training.precision} "
        f"together={config.method.chunk} memory={config.loss.memory}"
    )


def configuration_of(name: str) -> str:
    """The configuration to plan: itself, or the package's first that uses the model of that name.

    Raises
    ------
    UsageError
        If it is neither file, configuration nor model.
    """
    known = named_configs()
    if name in known or Path(name).is_file():
        return name
    models = {load(c).model.name: c for c in reversed(known)}
    if name not in models:
        raise UsageError(
            f"{name} is no file, no configuration ({', '.join(known)}) and no model of these"
            f"{suggest(name, [*known, *models])}"
        )
    return models[name]
