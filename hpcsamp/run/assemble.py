"""From a configuration to the objects of a run: the one place that makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from hpcsamp import losses, methods, models, tasks
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.losses import DataLoss, Likelihood
from hpcsamp.methods import Method
from hpcsamp.names import MODELS
from hpcsamp.run.kind import kind_of, with_kind
from hpcsamp.run.shapes import Shapes
from hpcsamp.spelling import suggest
from hpcsamp.tasks import Targets, TargetsError, Task

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Type of the weights and of a batch by ``training.precision``."""


class Run:
    """The network of a configuration under its sampling method, its loss and its likelihood.

    Parameters
    ----------
    config
        The checked configuration.
    shapes
        Of the data.
    own
        Samples that this rank evaluates in training.
    device
        Where the parameters are; ``meta`` for a blank run, which has everything but numbers.
    initial
        Initial weights by name where they do not come from the seed, see :mod:`.initial`.
    weigh
        Whether a loss weighs the values of an item as configured. Without a dataset the latitudes
        that weights come from are not known, and they change neither shapes nor costs.

    Attributes
    ----------
    config, shapes, own
        As given; the configuration has the dataset's kind of task where it leaves that open.
    task
        What the targets are, and what is predicted and measured of them.
    dtype
        Of weights and batches.
    likelihood
        The observation model: what an output means.
    data_loss
        The loss of a batch's outputs, without the penalty.
    method
        The network under its method.
    notes
        Lines about what was done with the network without having been told.

    Raises
    ------
    UsageError
        If model, method, loss and data do not fit.
    """

    def __init__(
        self,
        config: RunConfig,
        shapes: Shapes,
        own: range,
        device: torch.device,
        *,
        weigh: bool = False,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        blank = device.type == "meta"
        precision = config.training.precision
        self.config = config = with_kind(config, shapes.targets.kind)
        self.shapes = shapes
        self.task: Task = task(config)
        self.task.check(shapes.targets)
        self._check_best()
        self.own = own
        self.notes: dict[str, None] = {}
        self.dtype = DTYPES[precision]
        self.likelihood: Likelihood = likelihood(config)
        self.data_loss: DataLoss = _data_loss(config, self.task, shapes.targets, weigh)
        made = methods.make(
            config.method.name,
            partial(blank_network, config, shapes)
            if blank
            else partial(network, config, shapes, initial=initial, notes=self.notes),
            config.method.arguments,
            samples=config.method.samples,
            own=own,
            seed=config.seed,
            samples_per_pass=config.method.samples_per_pass,
            strategy=config.method.strategy,
            autocast=torch.bfloat16 if precision == "bfloat16" else None,
        )
        if config.evaluation.samples_per_pass is not None:
            made.predict_per_pass(config.evaluation.samples_per_pass)
        options, _ = models.options_of(config.model, MODELS.find(config.model.name))
        made.batch_norm = options.batch_norm
        self.method: Method = made if blank else made.to(device=device, dtype=self.dtype)

    @classmethod
    def of(
        cls,
        config: RunConfig,
        dataset: Dataset,
        topology: Topology,
        initial: Mapping[str, Tensor] | None = None,
    ) -> Run:
        """Of a configuration and its dataset, on this rank.

        Raises
        ------
        UsageError
            If the dataset is for another task, or the model does not fit the data.
        """
        own, shapes = topology.samples(config.method.samples), Shapes.of(dataset)
        try:
            return cls(config, shapes, own, topology.device, weigh=True, initial=initial)
        except TargetsError as e:
            raise UsageError(
                f"{e}; the dataset {dataset.path} is for {shapes.targets.kind}"
            ) from None

    @classmethod
    def blank(cls, config: RunConfig, shapes: Shapes, ranks: int = 1) -> Run:
        """The largest part of a run on one of ``ranks`` that share its samples, without numbers."""
        own = range(-(-config.method.samples // ranks))
        return cls(config, shapes, own, torch.device("meta"))

    @property
    def outputs(self) -> int:
        """Numbers that the likelihood reads of an item."""
        targets = self.shapes.targets
        return self.likelihood.size(targets.shape, targets.classes)

    def _check_best(self) -> None:
        best, known = self.config.training.best, self.task.best
        if best not in known:
            raise UsageError(
                f'training.best = "{best}" is no metric of task = "{self.task.kind}"; there is '
                f"{', '.join(known)}{suggest(best, known)}"
            )


def task(config: RunConfig) -> Task:
    """What the targets are, and what is predicted of them."""
    return tasks.make(kind_of(config), config.task.arguments)


def likelihood(config: RunConfig) -> Likelihood:
    """The observation model: what an output means."""
    return losses.make_likelihood(
        kind_of(config), config.loss.name, config.loss.arguments, config.likelihood.table
    )


def network(
    config: RunConfig,
    shapes: Shapes,
    member: int | None = None,
    *,
    initial: Mapping[str, Tensor] | None = None,
    notes: dict[str, None] | None = None,
) -> nn.Module:
    """The network of a run with what its likelihood adds to it.

    Parameters
    ----------
    member
        See :func:`hpcsamp.models.build`.
    initial
        Initial weights by name, see :func:`hpcsamp.models.pretrained.put`.
    notes
        Gets lines about what was done without having been told.
    """
    config = with_kind(config, shapes.targets.kind)
    m, noise = config.model, likelihood(config)
    targets = shapes.targets
    beside = math.prod(targets.shape) * noise.beside
    outputs = noise.size(targets.shape, targets.classes) - beside
    options, arguments = models.options_of(m, MODELS.find(m.name))
    made = models.build(
        m.name, arguments, shapes.x, outputs, config.seed, member,
        ids=shapes.ids, kinds=shapes.kinds, classes=_classes(shapes, outputs),
        options=options, notes=notes,
    )  # fmt: skip
    if initial is not None:
        source = str(options.weights)
        line = models.pretrained.put(
            made, initial, source, strict=options.strict, head=options.head
        )
        if line and notes is not None:
            notes[line] = None
    models.freeze(made, options.freeze)
    if options.batch_norm == "group":
        made = models.to_groups(made)
    mean, std = shapes.scale()
    return noise.complete(made, std, mean)


def _classes(shapes: Shapes, outputs: int) -> int | None:
    """Classes of each pixel or step, if the outputs are one for each of these."""
    places, classes = math.prod(shapes.targets.shape), shapes.targets.classes
    each = bool(shapes.targets.shape) and classes is not None and classes > 1
    return classes if each and classes is not None and places * classes == outputs else None


def blank_network(config: RunConfig, shapes: Shapes, member: int | None = None) -> nn.Module:
    """The network of a run on the meta device.

    Raises
    ------
    UsageError
        If it does not fit the data.
    """
    try:
        with models.blank():
            return network(config, shapes, member)
    except UsageError:  # some cannot be made without values
        return network(config, shapes, member).to("meta")


def _data_loss(config: RunConfig, of_task: Task, targets: Targets, weigh: bool) -> DataLoss:
    c = config.loss
    arguments = {k: v for k, v in c.arguments.items() if weigh or k != "latitudes"}
    return losses.make(
        c.name,
        kind_of(config),
        arguments,
        config.likelihood.table,
        of_task.class_weights(targets) if weigh else None,
    )
