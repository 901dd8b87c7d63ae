"""Build all objects of a run from a configuration; nothing else constructs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp import losses, methods, models, tasks
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, one_first
from hpcsamp.layers import ALONE, ModelAxis, along
from hpcsamp.losses import DataLoss, Likelihood, Likelihoods
from hpcsamp.methods import Method
from hpcsamp.names import MODELS
from hpcsamp.run.item_parts import spread
from hpcsamp.run.kind import SEVERAL, completed, kind_of, with_kind
from hpcsamp.run.shapes import DataShapes
from hpcsamp.spelling import suggest
from hpcsamp.tasks import Targets, TargetsError, Task
from hpcsamp.tasks.several import Output
from hpcsamp.tasks.several import Several as SeveralTargets

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Type of the weights and of a batch for each ``training.precision``."""


class Run:
    """The network of a configuration with its sampling method, its loss and its likelihood.

    Parameters
    ----------
    config
        The checked configuration.
    shapes
        Shapes of the data.
    own
        Samples that this rank evaluates in training.
    device
        Device of the parameters; ``meta`` for a blank run, whose tensors have no values.
    initial
        Initial weights by name if they do not come from the seed, see :mod:`.initial`.
    weigh
        Whether the loss weights the values of an item as configured. Without a dataset, the
        latitudes from which weights are computed are unknown; they affect neither shapes nor costs.

    Attributes
    ----------
    config, shapes, own
        The arguments; a configuration without a kind of task is completed with that of the dataset.
    task
        Kind of the targets, their predictions and metrics.
    dtype
        Type of weights and batches.
    likelihood
        Observation model, which interprets the outputs.
    data_loss
        Loss of a batch's outputs, without the penalty.
    method
        The network with its sampling method.
    notes
        Lines about decisions that were made automatically for this network.
    axis
        Model ranks over which the network is split; a single rank if it is not.

    Raises
    ------
    UsageError
        If model, method, loss and data do not fit together.
    """

    def __init__(
        self,
        config: RunConfig,
        shapes: DataShapes,
        own: range,
        device: torch.device,
        *,
        weigh: bool = False,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        blank = device.type == "meta"
        precision = config.training.precision
        self.config = config = with_kind(config, shapes.targets)
        self.shapes = shapes
        self.task: Task = task(config)
        self.task.check(shapes.targets)
        self._check_best()
        self.own = own
        self.notes: dict[str, None] = {}
        self.axis = ALONE
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
        """Build the run of a configuration and its dataset on this rank.

        Raises
        ------
        UsageError
            If the dataset was made for a different task, or the model does not fit the data.
        """
        own, shapes = topology.samples(config.method.samples), DataShapes.of(dataset)
        axis = ModelAxis.of(topology.axis("model")) if topology.model_size > 1 else ALONE
        try:
            with along(axis):
                made = cls(config, shapes, own, topology.device, weigh=True, initial=initial)
            made.axis = axis
            made._spread(axis)
            return made
        except TargetsError as e:
            raise UsageError(
                f"{e}; the dataset {dataset.path} is for {shapes.targets.kind}"
            ) from None

    def free(self) -> None:
        """Free the memory that model ranks share; call it at the end of the run. Collective."""
        if self.axis is not ALONE:
            self.axis.free()

    def _spread(self, axis: ModelAxis) -> None:
        """Split items across the model ranks, see :func:`.item_parts.spread`. Collective."""
        if axis.size > 1:
            groups = bool(self.config.optimizer.groups)
            spread(self.method, self.data_loss, self.shapes, axis, groups)
            losses.check_parts(self.data_loss, self.config.loss.kl, axis.size)

    @classmethod
    def blank(
        cls, config: RunConfig, shapes: DataShapes, ranks: int = 1, axis: ModelAxis = ALONE
    ) -> Run:
        """Build a blank run: the largest part that one of ``ranks`` ranks holds, without values.

        Parameters
        ----------
        axis
            Model ranks, such as those of :func:`hpcsamp.layers.imagined`.
        """
        own = range(-(-config.method.samples // ranks))
        with along(axis):
            made = cls(config, shapes, own, torch.device("meta"))
        made._spread(axis)
        return made

    @property
    def outputs(self) -> int:
        """Number of outputs per item that the likelihood reads."""
        return sum(_sizes(self.likelihood, self.shapes.targets).values())

    def _check_best(self) -> None:
        best, known = self.config.training.best, self.task.best
        if best not in known:
            raise UsageError(
                f'training.best = "{best}" is not a metric of task = "{self.task.kind}"; choose '
                f"from "
                f"{', '.join(known)}{suggest(best, known)}"
            )


def in_turn(topology: Topology) -> AbstractContextManager[None]:
    """Return the context in which :meth:`Run.of` builds a run: first on one rank of a node, which
    downloads missing files; on all ranks at once if they create a model-parallel network together.
    """
    return one_first(topology.node_comm) if topology.model_size == 1 else nullcontext()


def task(config: RunConfig) -> Task:
    """Create the task of a configuration."""
    return tasks.make(kind_of(config), completed(config).task.arguments)


def likelihood(config: RunConfig) -> Likelihood:
    """Create the observation model of a configuration; with several targets, one for each."""
    loss, given = config.loss, config.likelihood.table
    if kind_of(config) != SEVERAL:
        return losses.make_likelihood(kind_of(config), loss.name, loss.arguments, given)
    if given:
        key = next(iter(given))
        raise UsageError(
            f"likelihood.{key}: there are several targets, each with its own likelihood: "
            f"likelihood.{key} of [task.outputs.NAME]"
        )
    return Likelihoods(
        {
            of.name: losses.make_likelihood(of.kind, *of.loss_or(loss), of.likelihood)
            for of in _outputs(config)
        }
    )


def network(
    config: RunConfig,
    shapes: DataShapes,
    member: int | None = None,
    *,
    initial: Mapping[str, Tensor] | None = None,
    notes: dict[str, None] | None = None,
) -> nn.Module:
    """Build the network of a run with the layers that its likelihood adds.

    Parameters
    ----------
    member
        Member of an ensemble, see :func:`hpcsamp.models.build`.
    initial
        Initial weights by name, see :func:`hpcsamp.models.pretrained.put`.
    notes
        Receives lines about decisions that were made automatically.
    """
    config = with_kind(config, shapes.targets)
    m, noise = config.model, likelihood(config)
    if shapes.targets.parts:  # a clearer error than sizes that do not match
        task(config).check(shapes.targets)
    sizes = _sizes(noise, shapes.targets, beside=False)
    outputs = sum(sizes.values())
    options, arguments = models.options_of(m, MODELS.find(m.name))
    made = models.build(
        m.name, arguments, shapes.x, outputs, config.seed, member,
        ids=shapes.ids, kinds=shapes.kinds, classes=_classes(shapes, outputs),
        parts=sizes if shapes.targets.parts else None, options=options, notes=notes,
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
    if not isinstance(noise, Likelihoods):
        mean, std = shapes.scale()
        return noise.complete(made, std, mean)
    behind = {}
    for name, of in noise.each.items():
        mean, std = shapes.scale(name)
        further = of.complete(nn.Identity(), std, mean)
        if not isinstance(further, nn.Identity):
            behind[name] = further
    return models.Parted(made, sizes, behind)


def _outputs(config: RunConfig) -> Sequence[Output]:
    """The configured output of each of several targets."""
    made = task(config)
    assert isinstance(made, SeveralTargets)
    return list(made.outputs.values())


def _sizes(noise: Likelihood, targets: Targets, *, beside: bool = True) -> dict[str, int]:
    """Outputs per item that the likelihood of each target reads, with or without learnt noise."""
    pairs = {"y": (noise, targets)}
    if isinstance(noise, Likelihoods):
        pairs = {name: (of, targets.parts[name]) for name, of in noise.each.items()}
    return {
        name: of.size(t.shape, t.classes) - (0 if beside else math.prod(t.shape) * of.beside)
        for name, (of, t) in pairs.items()
    }


def _classes(shapes: DataShapes, outputs: int) -> int | None:
    """Number of classes per pixel or step, if the outputs are class scores for each of these."""
    places, classes = math.prod(shapes.targets.shape), shapes.targets.classes
    each = bool(shapes.targets.shape) and classes is not None and classes > 1
    return classes if each and classes is not None and places * classes == outputs else None


def blank_network(config: RunConfig, shapes: DataShapes, member: int | None = None) -> nn.Module:
    """Build the network of a run on the meta device.

    Raises
    ------
    UsageError
        If it does not fit the data.
    """
    try:
        with models.blank():
            return network(config, shapes, member)
    except UsageError:  # some networks cannot be created without values
        return network(config, shapes, member).to("meta")


def _data_loss(config: RunConfig, of_task: Task, targets: Targets, weigh: bool) -> DataLoss:
    c = config.loss
    if not isinstance(of_task, SeveralTargets):
        given = config.likelihood.table
        return _loss(c.name, c.arguments, given, of_task, targets, weigh)
    made = {
        of.name: _loss(*of.loss_or(c), of.likelihood, of.task, targets.parts[of.name], weigh)
        for of in of_task.outputs.values()
    }
    return losses.Several(made, {of.name: of.weight for of in of_task.outputs.values()})


def _loss(
    name: str,
    arguments: Mapping[str, Any],
    given: Mapping[str, Any],
    of_task: Task,
    targets: Targets,
    weigh: bool,
) -> DataLoss:
    """Build the loss of one target; ``given`` is the configuration table of its likelihood."""
    own = {k: v for k, v in arguments.items() if weigh or k != "latitudes"}
    weights = of_task.class_weights(targets) if weigh else None
    made = losses.make(name, of_task.kind, own, given, weights)
    if of_task.labels:  # other likelihoods would treat labels as numbers without an error
        noise = losses.make_likelihood(of_task.kind, name, own, given)
        made.size = noise.size(targets.shape, targets.classes)
    return made
