"""Base class of tasks: the type of the targets, their predictions and their metrics.

To add a task, write a subclass of :class:`Task` and name it in a configuration as
``task.kind = "package.module:Class"``. Usually it is a subclass of an existing kind that overrides
some of its methods::

    class Ratings(Ordinal):                     # keys of [task] are arguments of the constructor
        def tally(self, view):                  # the metrics
            return RatingsTally(view)

A run and its evaluation use a task as follows::

    task.check(targets)                         # refuse a set with other targets
    prediction = task.predict(outputs, y, view) # of a batch, from the outputs of all samples
    tally = task.tally(view)                    # metrics, as sums over a split
    tally.update(prediction, y, weight, mask)
    arrays = prediction.arrays(wanted)          # arrays of the batch for a predictions file
    layout = task.variables(view, ...)          # names, axes and units of these arrays

If there are no targets, ``y`` is :meth:`View.blank`. The arrays ``target`` and ``error`` are then
meaningless; the others do not depend on ``y``.
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
from hpcsamp.tasks.layout import FileVariable
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View


@dataclass
class Found:
    """Metrics and tables computed by a tally.

    Attributes
    ----------
    metrics
        Values by name.
    reliability
        Bins of the reliability diagrams by name.
    rows
        Metrics of each row, for targets with several rows: ``name`` and ``axis_units`` of their
        axis, ``labels``, ``units`` and the metrics by name, each a list. Empty for other
        targets.
    units
        Unit of each metric that has one.
    unattained
        Metrics that could not be computed from so few samples, by name, each with the reason.
    doubt
        One line that explains why the predictions are implausible, or None if they are not.
    series
        If the set has several series: their names, ``labels``, and the metrics of each by name.
    """

    metrics: dict[str, float]
    reliability: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    unattained: dict[str, str] = field(default_factory=dict)
    doubt: str | None = None
    series: dict[str, Any] = field(default_factory=dict)


class Prediction(ABC):
    """The predictive distribution of a batch, the same on all ranks of a sample group."""

    @abstractmethod
    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """Arrays for a predictions file, ``(B, ...)`` each, as functions that compute them.

        The array ``samples`` contains only the samples of this rank.
        """

    @abstractmethod
    def scores(self) -> Mapping[str, Tensor]:
        """Scores of each item, ``(B,)`` each: ``total`` and ``epistemic`` uncertainty.

        Tasks in which a prediction is right or wrong add ``confidence`` (1 minus the confidence, so
        that larger is less certain) and ``wrong``.
        """

    def arrays(self, wanted: Collection[str]) -> dict[str, np.ndarray]:
        """Compute the wanted arrays of the batch, by name."""
        return {k: make().cpu().numpy() for k, make in self.lazy().items() if k in wanted}


class Tally(ABC):
    """Accumulates the metrics of a split as sums, so that those of several ranks can be added."""

    @property
    @abstractmethod
    def states(self) -> list[Tensor]:
        """Flat float64 vectors on the CPU, which are summed over data groups in place."""

    @abstractmethod
    def update(
        self, prediction: Any, target: Tensor, weight: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        prediction
            A prediction of the same task.
        target
            ``(B, ...)``.
        weight
            ``(B,)`` weights of the items, 0 for padding.
        mask
            False where a value of the target is missing; has the shape of the target.
        """

    @abstractmethod
    def result(self, full: bool) -> Found:
        """Compute the metrics of all items added so far.

        Parameters
        ----------
        full
            Whether to return all metrics, or only those that are printed after an epoch.
        """


class Task(ABC):
    """Base class of tasks; the docstring of this module shows how a run uses them.

    Attributes
    ----------
    kind
        Name of the task in a configuration.
    labels
        Whether targets are labels ``0 .. C - 1``; otherwise they are numeric.
    usual_likelihood
        Name of the default likelihood.
    best
        Metrics that can select the best state of a run: 1 if smaller is better, -1 if larger
        is.
    scores
        Names of :meth:`Prediction.scores`.
    told_apart
        Scores that are used to detect out-of-distribution items.
    definitions
        Definitions of metrics that differ from those in :mod:`hpcsamp.metrics.definitions`.
    key
        Configuration table that the task comes from; used in messages.
    parts
        Figures of a report, by their names in :mod:`hpcsamp.report.build`.
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
        """Refuse a dataset whose targets do not fit the task.

        Raises
        ------
        TargetsError
            If the targets do not fit. The message begins with the task.
        """
        if targets.parts:
            raise TargetsError(f"{self._setting} takes one target, but the set has {targets}")
        if self.labels != (targets.classes is not None):
            needs = "class labels" if self.labels else "numbers"
            raise TargetsError(f"{self._setting} needs {needs}, but the targets are {targets}")

    def check_values(self, y: np.ndarray, where: str) -> None:  # noqa: B027
        """Refuse target values that the task does not allow; the message begins with ``where``.

        Raises
        ------
        DataError
            If a value is not allowed; the message contains the first such value.
        """

    def class_weights(self, targets: Targets) -> ClassWeights | None:
        """Return the factors of the loss for each label, or None if all are 1."""
        return None

    def balance(self, counts: Tensor) -> list[Any] | None:
        """Compute the weights for ``class_weights = "balanced"``; None if this is not set.

        Parameters
        ----------
        counts
            ``(*target.shape, C)``: number of occurrences of each label at each position of a
            target.
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
        """Compute the predictive distribution of a batch. Collective over the sample group.

        Parameters
        ----------
        outputs
            ``(s, B, ...)`` outputs of this rank's samples.
        target
            ``(B, ...)``, or :meth:`View.blank`.
        mask
            False where a value of the target is missing; has the shape of the target.
        full
            Whether to also compute scores that cost more than sums over samples, such as the CRPS.
        levels
            Probabilities of the quantiles to compute.
        """

    @abstractmethod
    def tally(self, view: View) -> Tally:
        """Return an empty tally for the metrics of a split."""

    @abstractmethod
    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """Describe the axes and arrays of a predictions file.

        Parameters
        ----------
        dtype
            Type of the predicted arrays.
        levels
            Probabilities of the quantiles.
        samples
            Number of samples to store; 0 for none.
        values
            Whether to store predictions of every value. If False (fields are large), only arrays
            with one value per item are stored.

        Returns
        -------
        axes, arrays
            Variables by name, without the axis of the items.
        """

    def has_quantiles(self, likelihood: Likelihood) -> bool:
        """Whether quantiles can be computed for this likelihood."""
        return False

    def is_series(self, view: View) -> bool:
        """Whether a target is one-dimensional and its quantiles can be computed."""
        return len(view.targets.shape) == 1 and self.has_quantiles(view.likelihood)

    def resolution(self, view: View, score: str = "") -> float:
        """Return the smallest uncertainty of an item that exceeds rounding errors.

        Uncertainties are differences of larger numbers. For nats and probabilities the result is
        1e-13.

        Parameters
        ----------
        score
            One of :attr:`scores`.
        """
        return 1e-13

    @property
    def _setting(self) -> str:
        table = self.key if self.key == "task" else f"{self.key}.kind"
        return f'{table} = "{self.kind}"'
