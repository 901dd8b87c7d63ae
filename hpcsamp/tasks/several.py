"""Several targets for each item, each with its own task."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from hpcsamp.config import LossSection
from hpcsamp.errors import UsageError
from hpcsamp.kinds import PARTS
from hpcsamp.losses import Likelihood, Likelihoods
from hpcsamp.tasks.base import Found, Prediction, Tally, Task
from hpcsamp.tasks.layout import ITEM, FileVariable
from hpcsamp.tasks.making import make
from hpcsamp.tasks.outputs import split
from hpcsamp.tasks.targets import Targets, TargetsError
from hpcsamp.tasks.views import View

#: Axes of a predictions file that all targets share.
SHARED = (ITEM, "sample", "quantile")


@dataclass(frozen=True)
class Output:
    """Task, weight, likelihood and loss of one of several targets.

    Attributes
    ----------
    name
        Name of the target in the dataset.
    task
        Task of the target.
    weight
        Factor of its loss.
    likelihood
        Name and arguments of its likelihood; empty for the default of the task.
    loss
        Name and arguments of its loss; None for the loss of the run.
    """

    name: str
    task: Task
    weight: float = 1.0
    likelihood: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Kind of the task."""
        return self.task.kind

    def loss_or(self, usual: LossSection) -> tuple[str, dict[str, Any]]:
        """Return the name and arguments of its loss; by default those of the run."""
        if self.loss is None:
            return usual.name, usual.arguments
        own = dict(self.loss)
        return own.pop("name", usual.name), own


@dataclass
class SeveralPrediction(Prediction):
    """Predictive distributions of several targets by name.

    Attributes
    ----------
    each
        Prediction of each target, by its name.
    """

    each: Mapping[str, Prediction]

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`."""
        return {
            in_file(name, array): value
            for name, of in self.each.items()
            for array, value in of.lazy().items()
        }

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`; each name is preceded by that of the target."""
        return {f"{n}/{k}": v for n, of in self.each.items() for k, v in of.scores().items()}

    def arrays(self, wanted: Collection[str]) -> dict[str, np.ndarray]:
        """See :class:`Prediction`."""
        found: dict[str, np.ndarray] = {}
        for name, of in self.each.items():
            own = {in_file(name, array): array for array in of.lazy()}
            made = of.arrays([array for array in own.values() if in_file(name, array) in wanted])
            found |= {in_file(name, array): value for array, value in made.items()}
        return found


class SeveralTally(Tally):
    """Metrics of each target, named ``NAME/metric``, and the weighted sum of the NLLs.

    Parameters
    ----------
    each
        Tallies by the name of the target.
    weights
        Factors of the losses by the name of the target.
    """

    def __init__(self, each: Mapping[str, Tally], weights: Mapping[str, float]) -> None:
        self.each, self.weights = dict(each), dict(weights)
        self.items = next(iter(each.values())).states[0].new_zeros(1)

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.items, *(state for tally in self.each.values() for state in tally.states)]

    def update(self, prediction: SeveralPrediction, target: Any, weight: Tensor,
               mask: Any = None) -> None:  # fmt: skip
        """See :class:`Tally`; targets and masks are dictionaries by name."""
        known = None
        for name, tally in self.each.items():
            own = None if mask is None else mask.get(name)
            tally.update(prediction.each[name], target[name], weight, own)
            some = weight > 0
            if own is not None:
                some = some & own.reshape(len(own), -1).any(1)
            known = some if known is None else known | some
        assert known is not None
        self.items += known.sum().double().cpu()

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        found = Found({})
        densities = []
        for name, tally in self.each.items():
            of = tally.result(full)
            densities.append(self.weights[name] * of.metrics.get("nll", math.nan))
            for key in ("metrics", "reliability", "rows", "units", "unattained"):
                getattr(found, key).update({f"{name}/{k}": v for k, v in getattr(of, key).items()})
            if of.doubt:
                found.doubt = "; ".join(filter(None, [found.doubt, f"{name}: {of.doubt}"]))
        if all(f"{name}/nll" in found.metrics for name in self.each):
            found.metrics = {"nll": sum(densities)} | found.metrics
        found.metrics["items"] = float(self.items)
        return found


class Several(Task):
    """Several targets for each item, each with its own task.

    Parameters
    ----------
    outputs
        A table for each target, by its name: ``kind``; ``weight``, the factor of its loss;
        ``likelihood``, a name or a table; ``loss``, a name or a table, if it differs from the loss
        of the run; and the arguments of the kind. The default kind comes from the dataset.

    Attributes
    ----------
    outputs
        Settings of each target, by its name.
    """

    usual_likelihood = "gaussian"
    best: Mapping[str, int] = {"nll": 1}  # type: ignore[misc]  # more of each target
    scores: tuple[str, ...] = ()  # type: ignore[misc]
    told_apart: tuple[str, ...] = ()  # type: ignore[misc]
    definitions: Mapping[str, str] = {}  # type: ignore[misc]
    parts = PARTS["several"]

    def __init__(self, outputs: dict[str, dict[str, Any]] | None = None) -> None:
        self.outputs = {name: _output(name, table) for name, table in (outputs or {}).items()}
        each = {name: of.task for name, of in self.outputs.items()}
        self.best = {"nll": 1} | _named(each, lambda task: task.best)
        self.scores = tuple(_named(each, lambda task: dict.fromkeys(task.scores)))
        self.told_apart = tuple(_named(each, lambda task: dict.fromkeys(task.told_apart)))
        self.definitions = {
            "nll": "sum over the targets of the nll of each target times its weight",
            **_named(each, lambda task: task.definitions),
        }

    def check(self, targets: Targets) -> None:
        """See :class:`Task`."""
        if not targets.parts:
            raise TargetsError(
                f"{self._setting} needs several targets by name, but the set has one: {targets}"
            )
        if set(self.outputs) != set(targets.parts):
            raise TargetsError(
                f"{self._setting}: task.outputs has {', '.join(self.outputs) or 'no targets'}, but "
                f"the set has {', '.join(targets.parts)}"
            )
        for name, of in self.outputs.items():
            of.task.check(targets.parts[name])

    def predict(
        self,
        outputs: Tensor,
        target: Any,
        view: View,
        *,
        mask: Any = None,
        full: bool = False,
        levels: Sequence[float] = (),
    ) -> SeveralPrediction:
        """See :class:`Task`; ``target`` and ``mask`` are dictionaries by name."""
        assert view.method is not None
        own = split(outputs, view.method, list(view.parts))
        each = {}
        for name, of in view.parts.items():
            task = self.outputs[name].task
            each[name] = task.predict(
                own[name],
                target[name],
                of,
                mask=None if mask is None else mask.get(name),
                full=full,
                levels=levels if task.has_quantiles(of.likelihood) else (),
            )
        return SeveralPrediction(each)

    def tally(self, view: View) -> SeveralTally:
        """See :class:`Task`."""
        return SeveralTally(
            {name: self.outputs[name].task.tally(of) for name, of in view.parts.items()},
            {name: of.weight for name, of in self.outputs.items()},
        )

    def variables(
        self, view: View, *, dtype: str, levels: Sequence[float], samples: int, values: bool
    ) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
        """See :class:`Task`; arrays and their axes are called ``NAME_array``."""
        axes: dict[str, FileVariable] = {}
        made: dict[str, FileVariable] = {}
        for name, of in view.parts.items():
            task = self.outputs[name].task
            own_axes, own = task.variables(
                of,
                dtype=dtype,
                levels=levels if task.has_quantiles(of.likelihood) else (),
                samples=samples,
                values=values,
            )
            for all_of, found in ((axes, own_axes), (made, own)):
                named = {
                    _axis(name, key) if all_of is axes else in_file(name, key): replace(
                        variable, dims=tuple(_axis(name, d) for d in variable.dims)
                    )
                    for key, variable in found.items()
                }
                twice = (axes.keys() | made.keys()) & named.keys() - set(SHARED)
                if twice:
                    raise UsageError(
                        f"two targets would write an array {min(twice)} to a predictions file: "
                        f"rename the target {name}"
                    )
                all_of.update(named)
        return axes, made

    def has_quantiles(self, likelihood: Likelihood) -> bool:
        """See :class:`Task`; whether at least one target has quantiles."""
        assert isinstance(likelihood, Likelihoods)
        return any(self.outputs[n].task.has_quantiles(of) for n, of in likelihood.each.items())

    def is_series(self, view: View) -> bool:
        """See :class:`Task`; whether at least one target is a series."""
        return any(self.outputs[n].task.is_series(of) for n, of in view.parts.items())

    def resolution(self, view: View, score: str = "") -> float:
        """See :class:`Task`."""
        name, _, own = score.rpartition("/")
        return self.outputs[name].task.resolution(view.parts[name], own)


def in_file(target: str, array: str) -> str:
    """Name of an array of one of several targets in a predictions file."""
    return f"{target}_{array}"


def _axis(target: str, axis: str) -> str:
    return axis if axis in SHARED else in_file(target, axis)


def _named(each: Mapping[str, Task], what: Callable[[Task], Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}/{key}": v for name, task in each.items() for key, v in what(task).items()}


def _output(name: str, table: Mapping[str, Any]) -> Output:
    """Read a table ``[task.outputs.NAME]``."""
    key, rest = f"task.outputs.{name}", dict(table)
    kind = rest.pop("kind", None)
    if kind is None:
        raise UsageError(f"{key}.kind is missing, and the dataset does not define it: set it")
    if kind == "several":
        raise UsageError(f'{key}.kind = "several": a target cannot have several targets in turn')
    weight = rest.pop("weight", 1.0)
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight < math.inf:
        raise UsageError(f"{key}.weight = {weight!r} must be a finite number of at least 0")
    loss, likelihood = (
        {"name": given} if isinstance(given, str) else given
        for given in (rest.pop("loss", None), rest.pop("likelihood", {}))
    )
    for what, given in (("loss", loss or {}), ("likelihood", likelihood)):
        if not isinstance(given, Mapping):
            raise UsageError(f"{key}.{what} = {given!r} must be a name or a table")
    return Output(name, make(kind, rest, key), float(weight), likelihood, loss)
