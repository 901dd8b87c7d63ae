"""A pass over a whole split: samples over sample groups, items over data groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hpcsamp.collectives import Collectives
from hpcsamp.data import Batch, Dataset, Loader
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, together
from hpcsamp.losses import Likelihood
from hpcsamp.methods import Method
from hpcsamp.metrics import (
    ClassificationMetrics,
    RegressionMetrics,
    definitions,
    risk_coverage,
    selective,
)
from hpcsamp.prediction.settling import settle
from hpcsamp.run.assemble import Run
from hpcsamp.tasks import items
from hpcsamp.tasks.components import Samples, normal_components
from hpcsamp.tasks.coordinates import read_coordinates
from hpcsamp.tasks.gathered import of_all_samples
from hpcsamp.tasks.plausible import ConstantNormal, doubt
from hpcsamp.tasks.predictive import predict_classes, predict_values, sample_counts
from hpcsamp.tasks.units import units_of
from hpcsamp.watchdog import Phase, here

#: Called with the positions of a batch's true items and their arrays by name.
Sink = Callable[[np.ndarray, dict[str, np.ndarray]], None]
#: Numbers per item that metrics of order need.
SCORES = ("total", "epistemic", "confidence", "wrong")


#: Of :attr:`Evaluation.rows`: what describes the rows.
NOT_METRICS = ("name", "axis_units", "labels", "units")


@dataclass
class Evaluation:
    """What an evaluation found, the same on every rank.

    Attributes
    ----------
    metrics
        By name.
    reliability
        Bins of the diagrams, see the metrics' ``reliability``; with all metrics, the curve of risk
        over coverage.
    rows
        Of values with several rows: ``name`` and ``axis_units`` of their axis, ``labels``,
        ``units`` and metrics by name, a list each; else empty.
    units
        Unit of each metric that has one.
    definitions
        What each metric is.
    unattained
        Metrics that so few samples do not have, and why, by name.
    doubt
        Why the predictions of values are worse than none, in one line, or None.
    scores
        Of all items ``(N,)`` float64 by name (:data:`SCORES`), if asked for.
    """

    metrics: dict[str, float]
    reliability: dict[str, list[float]]
    rows: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    unattained: dict[str, str] = field(default_factory=dict)
    doubt: str | None = None
    scores: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator:
    """Evaluates a method on one split, as often as asked.

    Parameters
    ----------
    run
        Whose method is evaluated. ``evaluation.batch`` items are evaluated at once over all data
        groups, rounded up to a multiple of D (no item is left out or counted twice, so the metrics
        do not depend on it).
    dataset
        The split.
    likelihood
        The observation model, which may be replaced by one that was fitted.
    samples
        ``S`` of the predictive distribution, which may grow.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        topology: Topology,
        collectives: Collectives,
        likelihood: Likelihood,
        *,
        samples: int,
    ) -> None:
        c = run.config
        self.dataset = dataset
        self.topology = topology
        self.collectives = collectives
        self.likelihood = likelihood
        self.samples = samples
        self.bins = c.evaluation.bins
        with together(topology.world):
            found = read_coordinates(dataset) if topology.is_root else None
        self.coordinates = topology.world.bcast(found)
        self.units = units_of(dataset, self.coordinates)
        area = self.coordinates.area_weights()
        self.weights = None if area is None else torch.as_tensor(area)
        groups = topology.data_size
        self.loader = Loader(
            dataset,
            topology,
            batch=-(-c.evaluation.batch // groups) * groups,
            shuffle=False,
            tail="mask",
            reader=c.data.reader,
            dtype=run.dtype,
        )

    def run(
        self,
        method: Method,
        *,
        full: bool = False,
        sink: Sink | None = None,
        wanted: Collection[str] = (),
        quantiles: Sequence[float] = (),
    ) -> Evaluation:
        """Evaluate. Collective over the world.

        Parameters
        ----------
        full
            Also what costs more than the sums: CRPS, and metrics of the order of items.
        sink, wanted
            Who gets the arrays of each batch, and which, see :mod:`hpcsamp.tasks.items`. The
            ranks of a sample group get the same, but for ``samples``.
        quantiles
            Levels.
        """
        scores = np.zeros((len(SCORES), self.dataset.count)) if full else None
        if self.dataset.classes is not None:
            found = self._classes(method, self.dataset.classes, scores, sink, wanted)
        else:
            found = self._values(method, full, scores, sink, wanted, quantiles)
        if scores is not None:
            found.scores = self._gather(scores)
            if self.dataset.classes is not None:
                scored = found.scores["confidence"]
                curve = risk_coverage(found.scores["wrong"], scored, self.resolution)
                found.metrics |= selective(curve)
                found.reliability["risk"] = _thinned(curve)
        else:
            left_out = _ONLY_FULL if self.dataset.classes is None else ()
            found.metrics = {k: v for k, v in found.metrics.items() if k not in left_out}
        found.metrics["items"] = found.metrics.pop("items")  # at the end
        found.definitions = definitions(
            [*found.metrics, *(k for k in found.rows if k not in NOT_METRICS)],
            self.weights is not None,
        )
        return found

    def scores(
        self, method: Method, target_shape: tuple[int, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """Uncertainties of all items, whatever their targets are. Collective over the world.

        Parameters
        ----------
        target_shape
            Of an item that the method predicts; None for classes.
        """
        scores = np.zeros((len(SCORES), self.dataset.count))
        for batch in self._batches(method):
            index = torch.from_numpy(batch.index).to(batch.device)
            if target_shape is None:
                p = predict_classes(method, batch.x, self.samples, self.collectives, index)
                confidence = 1 - p.log_probabilities.exp().amax(1)
                self._keep(scores, batch, p.total, p.total - p.aleatoric, confidence)
            else:
                y = batch.weight.new_zeros(len(batch), *target_shape)
                v = predict_values(
                    method, batch.x, y, self.samples, self.collectives, self.likelihood, index
                )
                self._keep(scores, batch, *(_mean(t) for t in (v.aleatoric + v.epistemic,
                                                               v.epistemic)))  # fmt: skip
        return self._gather(scores)

    @property
    def resolution(self) -> float:
        """Below it the uncertainties of items are rounding: they are differences of larger numbers.

        Of nats and probabilities 1e-13; of variances that of the targets times 1e-13.
        """
        if self.dataset.classes is not None:
            return 1e-13
        return 1e-13 * float(self.units.typical.min()) ** 2

    def close(self) -> None:
        """Let go of the files."""
        self.loader.close()

    def _batches(self, method: Method) -> Iterator[Batch]:
        here.at(Phase.EVALUATION)
        for number, batch in enumerate(self.loader.epoch(0), 1):
            here.at(Phase.EVALUATION, number)
            if number == 1:
                c = self.collectives
                mine = method.prediction_share(self.samples, c.sample_size, c.sample_rank)
                index = torch.from_numpy(batch.index).to(batch.device)
                with together(self.topology.world), method.predicting():
                    method.observe(batch.x, mine, 0, index=index)
                    method.check_passes(batch.x, mine, index=index)
                settle(method, batch.x, mine, index, self.topology.world)
            yield batch

    def _classes(
        self,
        method: Method,
        classes: int,
        scores: np.ndarray | None,
        sink: Sink | None,
        wanted: Collection[str],
    ) -> Evaluation:
        metrics = ClassificationMetrics(classes, self.bins)
        for batch in self._batches(method):
            index = torch.from_numpy(batch.index).to(batch.device)
            p = predict_classes(method, batch.x, self.samples, self.collectives, index)
            metrics.update(p.log_probabilities, batch.y, batch.weight, p.aleatoric)
            if scores is not None:
                best, predicted = p.log_probabilities.exp().max(1)
                wrong = predicted != batch.y
                self._keep(scores, batch, p.total, p.total - p.aleatoric, 1 - best, wrong)
            if sink is not None:
                _pass_on(sink, batch, items.of_classes(batch, p, wanted))
        self._sum(metrics.state)
        return Evaluation(metrics.compute(), metrics.reliability())

    def _values(
        self,
        method: Method,
        full: bool,
        scores: np.ndarray | None,
        sink: Sink | None,
        wanted: Collection[str],
        quantiles: Sequence[float],
    ) -> Evaluation:
        units, normal = self.units, normal_components(self.likelihood)
        if quantiles and not normal:
            raise UsageError(
                f"quantiles are exact for mixtures of normal distributions, not of "
                f"{type(self.likelihood).__name__}: leave them out (--quantiles none)"
            )
        metrics = RegressionMetrics(
            rows=len(units.scale),
            weights=self.weights,
            scale=units.scale.tolist(),
            mixed=units.mixed,
            typical=units.typical.tolist(),
            samples=self.samples,
            alone=isinstance(self.likelihood, Samples),
        )
        counts = sample_counts(method, self.samples, self.collectives)
        constant = ConstantNormal(self.dataset)
        for batch in self._batches(method):
            index = torch.from_numpy(batch.index).to(batch.device)
            p = predict_values(
                method, batch.x, batch.y, self.samples, self.collectives, self.likelihood, index
            )
            total = p.aleatoric + p.epistemic
            crps, levels = of_all_samples(
                p.own_means,
                p.own_stds,
                counts,
                self.collectives,
                target=batch.y if full and normal else None,
                levels=quantiles,
                alone=isinstance(self.likelihood, Samples),
            )
            metrics.update(
                p.mean,
                total,
                batch.y,
                batch.weight,
                p.log_density,
                pit=p.pit,
                crps=crps,
                epistemic=p.epistemic,
            )
            constant.update(batch.y, batch.weight)
            if scores is not None:
                self._keep(scores, batch, _mean(total), _mean(p.epistemic))
            if sink is not None:
                arrays = items.of_values(batch, p, units, self.weights, levels, wanted)
                _pass_on(sink, batch, arrays)
        self._sum(metrics.state)
        self._sum(constant.state)
        rows: dict[str, Any] = {}
        if self.coordinates.axes and len(units.scale) > 1:
            axis = self.coordinates.axes[0]
            labels = [str(v) if axis.named else float(v) for v in axis.values]
            rows = {"name": axis.name, "axis_units": axis.units, "labels": labels}
            rows["units"] = units.by_row
            rows |= metrics.by_row()
        found = metrics.compute()
        told = {k: units.overall for k in _IN_UNITS if k in found and units.overall}
        return Evaluation(
            found,
            metrics.reliability(),
            rows,
            told,
            unattained=metrics.unattained(),
            doubt=doubt(found, constant.nll()),
        )

    def _sum(self, state: torch.Tensor) -> None:
        if self.topology.data_size > 1:
            self.collectives.sum_(state, "data")

    def _keep(self, scores: np.ndarray, batch: Batch, *values: torch.Tensor) -> None:
        true = batch.true
        for row, value in zip(scores, values, strict=False):
            row[batch.index[true]] = value.double().cpu().numpy()[true]

    def _gather(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of the items of all data groups: each item is of one group, the others add 0."""
        whole = torch.from_numpy(scores)
        self._sum(whole)
        return dict(zip(SCORES, whole.numpy(), strict=True))


#: What validation after an epoch leaves out.
_ONLY_FULL = (
    "bias", "nll_physical", "spread_epistemic", "sharpness", "spread_skill", "coverage_80", "mace"
)  # fmt: skip
_IN_UNITS = (
    "rmse", "mae", "bias", "crps", "spread", "spread_epistemic", "sharpness",
)  # fmt: skip


def _mean(variance: torch.Tensor) -> torch.Tensor:
    return variance.double().flatten(1).mean(1) if variance.dim() > 1 else variance


def _thinned(curve: np.ndarray, points: int = 200) -> list[float]:
    """A curve over 1/n .. 1 at no more than so many equally spaced places."""
    n = len(curve)
    count = min(n, points)
    return [float(curve[max(1, round(n * (k + 1) / count)) - 1]) for k in range(count)]


def _pass_on(sink: Sink, batch: Batch, arrays: dict[str, np.ndarray]) -> None:
    """Without the padding of a last batch."""
    true = batch.true
    sink(batch.index[true], {k: v[true] for k, v in arrays.items()})
