"""The work of a run: sizes and operation counts, independent of the grid."""

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
from hpcsamp.planning.counts import OperationCounts, count
from hpcsamp.run.assemble import Run
from hpcsamp.run.shapes import DataShapes
from hpcsamp.spelling import suggest

BYTES = {"float32": 4, "float64": 8, "bfloat16": 4}
HOROVOD_FROM = {"auto": SMALL, "horovod": 0}


@dataclass(frozen=True)
class Workload:
    """The work of a step before it is divided over ranks.

    Attributes
    ----------
    name
        Name of the model.
    key
        Key of the run in a calibration: model with arguments, shapes, method, precision.
    samples, batch
        ``S``, and the number of items of a step over all data groups.
    weights, drawn, trained
        Number of all weights of the network; of random weights, which are drawn per sample; and of
        values that the optimiser updates.
    item
        Bytes per trainable parameter.
    own
        Whether each sample has its own parameters, which are not exchanged between samples.
    counts
        Operations of one sample's passes.
    x_bytes, stored_bytes
        Number of bytes of an item in a step, and in its file.
    values
        Number of values of an item that a loss compares (``V``).
    statistics
        Exchanges of a loss.
    views
        ``"none"`` without augmentation; otherwise ``"all"``, ``"rank"`` or ``"sample"``: the
        samples that share a view of an item.
    sharded, recompute
        ``optimizer.sharded``; whether passes are computed twice to save memory.
    shares
        Whether each sample rank holds a share of the weights (``optimizer.sharded = "weights"``),
        which are then gathered for each pass.
    together
        Number of samples of a rank evaluated in one pass; 0 for all.
    precision
        Precision, as in the configuration.
    horovod_from
        Size in bytes from which Horovod exchanges gradients in host memory (it always does so on
        GPUs); infinite without Horovod.
    model
        ``M``, the number of ranks that the network is split over. All counts and bytes above are
        those of the rank with the largest part.
    model_sizes
        All values that ``M`` may have.
    leads, later
        Steps of the rollout of a pass (``training.rollout``; the most of a curriculum), and the
        operations of each step but the first in relation to those of the first, whose input needs
        no gradient.
    lead_bytes
        Number of bytes of the target of a further step in the file.
    of_part
        Function that returns the same run with another ``M``; None if there is no other.
    """

    name: str
    key: str
    samples: int
    batch: int
    weights: int
    drawn: int
    trained: int
    counts: OperationCounts
    x_bytes: float
    stored_bytes: float
    values: int = 1
    item: int = 4
    own: bool = False
    statistics: tuple[Shared, ...] = ()
    views: Share | Literal["none"] = "none"
    sharded: bool = False
    recompute: bool = False
    shares: bool = False
    together: int = 1
    precision: Precision = "float32"
    horovod_from: float = 0.0
    model: int = 1
    model_sizes: tuple[int, ...] = (1,)
    leads: int = 1
    later: float = 1.0
    lead_bytes: float = 0.0
    of_part: Callable[[int], Workload] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, config: RunConfig, shapes: DataShapes, model: int = 1) -> Workload:
        """Work of a configuration and the shapes of its data, for the fullest of ``model`` ranks.

        Raises
        ------
        UsageError
            If the model, method, loss and data do not fit together, or if operations cannot be
        counted.
        """
        run = parted.blank(config, shapes, model=model)
        method, (network, axis) = run.method, parted.network(config, shapes, model)
        held = parted.Held.of(run)
        precision = config.training.precision
        item = BYTES[precision]
        spread = getattr(method, "log_std", None)
        about = run.data_loss.about if config.loss.exact else None
        leads = config.training.longest_rollout
        counted = partial(
            count,
            network,
            parted.inputs(shapes, method.spread, torch.float32),
            {"float32": 4, "float64": 8, "bfloat16": 2}[precision],
            axis=axis,
        )
        counts = counted()
        later = 1.0
        if leads > 1:
            later = counted(later=True).flops_of(1) / max(1.0, counts.flops_of(1))
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
            counts=counts,
            x_bytes=shapes.batch_bytes(item) * held.inputs,
            stored_bytes=held.stored(shapes),
            values=1 if run.task.labels else round(shapes.target_values * held.outputs),
            statistics=about.exchanges if about else (),
            views=config.augment.share if config.augment.active else "none",
            sharded=bool(config.optimizer.sharded),
            shares=config.optimizer.sharded == "weights",
            together=_together(method),
            recompute=config.loss.memory == "recompute",
            precision=precision,
            horovod_from=HOROVOD_FROM.get(config.parallel.collectives, math.inf),
            model=model,
            leads=leads,
            later=later,
            lead_bytes=shapes.target_values * item * held.targets,
        )

    @classmethod
    def on(cls, config: RunConfig, shapes: DataShapes, ranks: int) -> Workload:
        """Work of the run with an undivided network, and all ways to divide it over several ranks.

        Raises
        ------
        UsageError
            If no division is possible, see also :func:`.parted.sizes`.
        """
        whole = config.training.longest_rollout > 1 and config.parallel.model == 1
        found = [1] if whole else parted.sizes(config, shapes, ranks)  # no rollouts
        of_part = cache(partial(cls.of, config, shapes))
        return replace(of_part(1), model_sizes=tuple(found), of_part=of_part)

    def on_model_ranks(self, model: int) -> Workload:
        """Work of the rank with the largest part, among ``model`` model ranks."""
        if model == self.model:
            return self
        if self.of_part is None:
            raise UsageError(f"{self.name} is planned for M = {self.model}, not for {model}")
        return self.of_part(model)

    def scaled(self, **changes: Any) -> Workload:
        """Return this work with changes, e.g. other ``samples``, which :attr:`of_part` keeps."""
        of_part = self.of_part and cache(partial(_scaled, self.of_part, changes))
        return replace(self, **changes, of_part=of_part)

    @property
    def passes(self) -> float:
        """Cost of a pass with all steps of the rollout, in passes of one step."""
        return 1 + (self.leads - 1) * self.later

    @property
    def read_bytes(self) -> float:
        """Bytes that are read for an item, with the targets of all steps of the rollout."""
        return self.stored_bytes + (self.leads - 1) * self.lead_bytes

    def without_feed(self) -> Workload:
        """The work of a step without reading and augmentation."""
        return self.scaled(stored_bytes=0.0, lead_bytes=0.0, views="none")


def _scaled(of_part: Callable[[int], Workload], changes: Mapping[str, Any], model: int) -> Workload:
    return of_part(model).scaled(**changes)


def _together(method: Method) -> int:
    """Number of samples per pass; 0 for all samples of a rank."""
    chunk = method.samples_per_pass
    return chunk if chunk < ALL else 0


def key_of(run: Run) -> str:
    """Return a line that identifies the run for which passes were measured."""
    config, shapes = run.config, run.shapes
    arguments = " ".join(f"{k}={v}" for k, v in sorted(config.model.arguments.items()))
    shape = shapes.told("x")
    return (
        f"{config.model.name} {arguments} in={shape} out={run.outputs} "
        f"{config.method.name} {config.training.precision} "
        f"together={config.method.chunk} memory={config.loss.memory}"
    )


def configuration_of(name: str) -> str:
    """Return the configuration to plan by its name or file, or by the name of its model.

    Raises
    ------
    UsageError
        If the name is neither a file, nor a configuration, nor a model.
    """
    known = named_configs()
    if name in known or Path(name).is_file():
        return name
    models = {load(c).model.name: c for c in reversed(known)}
    if name not in models:
        raise UsageError(
            f"{name} is not a file, a configuration ({', '.join(known)}) or the model of one"
            f"{suggest(name, [*known, *models])}"
        )
    return models[name]
