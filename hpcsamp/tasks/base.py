"""A kind of task: what targets are, what a network says of them, what is predicted and measured.

A task of your own is a subclass of :class:`Task`, named in a configuration as
``task.kind = "package.module:Class"``; usually one of an existing kind with some of its methods
replaced::

    class Ratings(Ordinal):                     # keys of [task] are arguments of the constructor
        def tally(self, view):                  # what is measured
            return RatingsTally(view)

What is done with it, by a run and its evaluation::

    task.check(targets)                         # does the set fit?
    prediction = task.predict(outputs, y, view) # of a batch, from the outputs of all samples
    tally = task.tally(view)                    # metrics, as sums over a split
    tally.update(prediction, y, weight, mask)
    arrays = prediction.arrays(wanted)          # what a file of predictions holds of the batch
    layout = task.variables(view, ...)          # names, axes and units of these arrays

Where there are no targets, ``y`` is :meth:`View.blank`: arrays called ``target`` and ``error`` are
of no use then, and the others do not depend on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from hpcsamp.losses import Likelihood
from hpcsamp.losses.class_weights import ClassWeights
from hpcsamp.tasks.layout import Variable
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View


@dataclass
class Found:
    """What a tally found.

    Attributes
    ----------
    metrics
        By name.
    reliability
        Bins of the diagrams by name.
    rows
        Of targets with several rows: ``name`` and ``axis_units`` of their axis, ``labels``,
        ``units`` and metrics by name, a list each; else empty.
    units
        Unit of each metric that has one.
    unattained
        Metrics that so few samples do not have, and why, by name.
    doubt
        Why the predictions are worse than none, in one line, or None.
    """

    metrics: dict[str, float]
    reliability: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    unattained: dict[str, str] = field(default_factory=dict)
    doubt: str | None = None


class Prediction(ABC):
    """The predictive distribution of a batch, the same on all ranks of a sample group."""

    @abstractmethod
    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """What a file holds, ``(B, ...)`` each, made when called; ``samples`` are this rank's."""

    @abstractmethod
    def scores(self) -> Mapping[str, Tensor]:
        """``(B,)`` each, one number per item: ``total`` and ``epistemic`` uncertainty.

        Of tasks in which an item is right or wrong also ``confidence`` (1 minus it: larger is less
        certain) and ``wrong``.
        """

    def arrays(self, wanted: Collection[str]) -> dict[str, np.ndarray]:
        """The wanted arrays of the batch by name."""
        return {k: make().cpu().numpy() for k, make in self.lazy().items() if k in wanted}


class Tally(ABC):
    """Metrics of a split as sums: of other ranks' items they are added."""

    @property
    @abstractmethod
    def states(self) -> list[Tensor]:
        """Flat float64 vectors on the CPU, to be summed over data groups in place."""

    @abstractmethod
    def update(
        self, prediction: Any, target: Tensor, weight: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        prediction
            Of the task.
        target
            ``(B, ...)``.
        weight
            ``(B,)`` of items, 0 for padding.
        mask
            False for values that are not known, in the shape of the target.
        """

    @abstractmethod
    def result(self, full: bool) -> Found:
        """Metrics of all items so far.

        Parameters
        ----------
        full
            All of them; else those that are shown after an epoch.
        """


class Task(ABC):
    """A kind of task, see the top of this file.

    Attributes
    ----------
    kind
        Its name in a configuration.
    labels
        Whether targets are labels ``0 .. C - 1``, else numbers.
    usual_likelihood
        Name of the likelihood where none is given.
    best
        Metrics by which states of a run can be compared: 1 where less is better, -1 where more is.
    scores
        Names of :meth:`Prediction.scores`.
    told_apart
        Those of them by which out-of-distribution items are told from others.
    definitions
        What metrics are, where they are not what :mod:`hpcsamp.metrics.definitions` says.
    key
        Of the table of a configuration that it comes from, for messages.
    parts
        Pictures of a report, by the names in :mod:`hpcsamp.report.build`.
    """

    kind: str = ""
    key: str = "task"
    labels: ClassVar[bool] = False
    usual_likelihood: ClassVar[str]
    best: ClassVar[Mapping[str, int]] = {"nll": 1}
    scores: ClassVar[tuple[str, ...]] = ("total", "epistemic")
    told_apart: ClassVar[tuple[str, ...]] = ("total", "epistemic")
    definitions: ClassVar[Mapping[str, str]] = {}
    parts: ClassVar[tuple[str, ...]] = ()

    def check(self, targets: Targets) -> None:
        """Refuse a set whose targets are of another kind.

        Raises
        ------
        TargetsError
            Beginning with the task.
        """
        if targets.parts:
            raise TargetsError(f"{self._said} is of one target, the set has {targets}")
        if self.labels != (targets.classes is not None):
            needs = "labels of classes" if self.labels else "numbers"
            raise TargetsError(f"{self._said} needs {needs}, but targets are {targets}")

    def check_values(self, y: np.ndarray, where: str) -> None:  # noqa: B027
        """Refuse values that a target of this kind does not have; ``where`` begins the message.

        Raises
        ------
        DataError
            With the first one.
        """

    def class_weights(self, targets: Targets) -> ClassWeights | None:
        """Weights of values by their labels, for losses."""
        return None

    def balance(self, counts: Tensor) -> list[Any] | None:
        """``class_weights = "balanced"`` in numbers; None where that is not asked for.

        Parameters
        ----------
        counts
            ``(*target.shape, C)``: how often each label occurs at each place of a target.
        """
        return None

    @abstractmethod
    def predict(
        self,
        outputs: Tensor,
        target: Tensor,
        view: View,
        *,
        mask: Tensor | None = None,
        full: bool = False,
        levels: Sequence[float] = (),
    ) -> Prediction:
        """The predictive distribution of a batch. Collective over the sample group.

        Parameters
        ----------
        outputs
            ``(s, B, ...)`` of this rank's samples.
        target
            ``(B, ...)``, or :meth:`View.blank`.
        mask
            False for values of the target that are not known, in its shape.
        full
            Also what costs more than sums over samples.
        levels
            Of quantiles, where there are any.
        """

    @abstractmethod
    def tally(self, view: View) -> Tally:
        """What is measured over a split, with nothing in it yet."""

    @abstractmethod
    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, Variable], dict[str, Variable]]:
        """Axes and arrays of a file of predictions.

        Parameters
        ----------
        dtype
            Of what is predicted.
        levels
            Of quantiles.
        samples
            How many samples are kept; 0 for none.
        values
            Whether predictions of every value are kept, or (fields are large) one number per item
            only.

        Returns
        -------
        axes, arrays
            By name; without the axis of the items.
        """

    def has_quantiles(self, likelihood: Likelihood) -> bool:
        """Whether quantiles can be predicted."""
        return False

    def is_series(self, view: View) -> bool:
        """Whether a target is a row of values whose quantiles can be predicted."""
        return len(view.targets.shape) == 1 and self.has_quantiles(view.likelihood)

    def resolution(self, view: View, score: str = "") -> float:
        """Below it the uncertainties of items are rounding: they are differences of larger numbers.

        Nats and probabilities: 1e-13.

        Parameters
        ----------
        score
            Which of :attr:`scores`.
        """
        return 1e-13

    @property
    def _said(self) -> str:
        table = self.key if self.key == "task" else f"{self.key}.kind"
        return f'{table} = "{self.kind}"'
