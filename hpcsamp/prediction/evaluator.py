"""Evaluate a whole split: samples divided over sample groups, items over data groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from hpcsamp.collectives import Collectives
from hpcsamp.data import Batch, Dataset, Loader
from hpcsamp.grid import Topology, together
from hpcsamp.losses import Likelihood
from hpcsamp.methods import Method
from hpcsamp.metrics import definitions, risk_coverage, selective
from hpcsamp.prediction.chains import ChainTally
from hpcsamp.prediction.settling import settle
from hpcsamp.prediction.statistics import estimate
from hpcsamp.run.assemble import Run
from hpcsamp.tasks import Found, Prediction, Task, View
from hpcsamp.tasks.coordinates import Coordinates, read_coordinates
from hpcsamp.tasks.outputs import local_outputs, parts_of_inputs, sample_counts
from hpcsamp.tasks.views import view_of
from hpcsamp.watchdog import Phase, here

#: Called with the positions of a batch's items (without padding) and their arrays by name.
Sink = Callable[[np.ndarray, dict[str, np.ndarray]], None]

#: Entries of :attr:`Evaluation.rows` that describe the rows.
NOT_METRICS = ("name", "axis_units", "labels", "units")


@dataclass
class Evaluation(Found):
    """Results of an evaluation, the same on every rank.

    Attributes
    ----------
    definitions
        Definition of each metric.
    scores
        Scores of all items, ``(N,)`` float64 by name (:attr:`~hpcsamp.tasks.Task.scores`), if
        requested.
    """

    definitions: dict[str, str] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator:
    """Evaluates a method on one split; may be called repeatedly.

    Parameters
    ----------
    run
        Run whose method is evaluated. All data groups together evaluate ``evaluation.batch`` items
        at a time, rounded up to a multiple of D (no item is omitted or counted twice, so the
        metrics do not depend on it).
    dataset
        Split to evaluate.
    likelihood
        Observation model; it may be replaced by one that was fitted.
    samples
        ``S`` of the predictive distribution; it may grow.
    training_set
        Function that opens the training set; None for that of the configuration.
    task
        Task of the predictions; None for that of the run.
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
        training_set: Callable[[], Dataset] | None = None,
        task: Task | None = None,
    ) -> None:
        c = run.config
        self._run = run
        self._training_set = training_set or partial(Dataset.open, c.data.path, "train")
        self.dataset = dataset
        self.topology = topology
        self.collectives = collectives
        self.task = run.task if task is None else task
        self.targets = run.shapes.targets
        self.likelihood = likelihood
        self.samples = samples
        self.bins = c.evaluation.bins
        names, found = self.targets.parts or ["y"], None
        with together(topology.world):
            if topology.is_root:
                known = [name for name in names if name in dataset.targets]  # of another dataset
                found = {name: read_coordinates(dataset, name) for name in known}
        self.coordinates: dict[str, Coordinates] = topology.world.bcast(found)
        groups = topology.data_size
        self.loader = Loader(
            dataset,
            topology,
            batch=-(-c.evaluation.batch // groups) * groups,
            shuffle=False,
            tail="mask",
            reader=c.data.reader,
            dtype=run.dtype,
            part=parts_of_inputs(run.method),
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
        """Evaluate the split. Collective over the world.

        Parameters
        ----------
        full
            Also compute metrics beyond simple sums: CRPS, metrics that sort the items, and the
            convergence of chains.
        sink, wanted
            Function that receives the arrays of each batch, and their names, see
            :meth:`hpcsamp.tasks.Task.variables`. All ranks of a sample group receive the same
            arrays, except for ``samples``.
        quantiles
            Levels of the quantiles.
        """
        view = self.view(method)
        tally = self.task.tally(view)
        scores = self._no_scores() if full else None
        chains = self._chains(method, view) if full and method.chains else None
        for batch in self.batches(method):
            p = self._predict(method, view, batch, batch.y, full, quantiles)
            tally.update(p, batch.y, batch.weight, batch.mask)
            if scores is not None:
                self._keep(scores, batch, p)
            if chains is not None:
                chains.update(p, batch.true)
            if sink is not None:
                _pass_on(sink, batch, p.arrays(wanted))
        for state in tally.states:
            self._sum(state)
        result = tally.result(full)
        found = Evaluation(**vars(result))
        if scores is not None:
            found.scores = self._gather(scores)
            for of in [k.removesuffix("wrong") for k in found.scores if _own(k) == "wrong"]:
                known = ~np.isnan(found.scores[f"{of}wrong"])  # items with a known label
                wrong, scored = (found.scores[f"{of}{k}"][known] for k in ("wrong", "confidence"))
                curve = risk_coverage(wrong, scored, self.task.resolution(view, f"{of}confidence"))
                found.metrics |= {f"{of}{k}": v for k, v in selective(curve).items()}
                found.reliability[f"{of}risk"] = _thinned(curve)
        if chains is not None:
            mixing, missing = chains.result()
            found.metrics |= mixing
            found.unattained |= missing
        found.metrics["items"] = found.metrics.pop("items")  # at the end
        found.definitions = definitions(
            [*found.metrics, *(k for k in found.rows if _own(k) not in NOT_METRICS)],
            any(of.weights is not None for of in (view, *view.parts.values())),
        )
        measured = {*found.metrics, *found.rows}
        found.definitions |= {k: v for k, v in self.task.definitions.items() if k in measured}
        return found

    def scores(self, method: Method) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Compute the uncertainties of all items without using targets. Collective over the world.

        Returns
        -------
        scores, resolution
            Dictionaries by name: scores of shape ``(N,)``, and for each the size below which
            differences are rounding errors.
        """
        view = self.view(method)
        scores = self._no_scores()
        for batch in self.batches(method):
            p = self._predict(method, view, batch, None)
            self._keep(scores, replace(batch, mask=None), p)
        return self._gather(scores), {k: self.task.resolution(view, k) for k in scores}

    def view(self, method: Method) -> View:
        """Describe the predicted quantities and their units. Collective over the sample group."""
        return view_of(
            method, self.targets, self.likelihood, self.dataset, self.coordinates, self.samples,
            self._counts(method), self.collectives, bins=self.bins, measured=True,
        )  # fmt: skip

    def _predict(
        self,
        method: Method,
        view: View,
        batch: Batch,
        target: torch.Tensor | None,
        full: bool = False,
        levels: Sequence[float] = (),
    ) -> Prediction:
        index = torch.from_numpy(batch.index).to(batch.device)
        outputs = self._outputs(method, batch.x, index)
        y = view.blank(outputs) if target is None else target
        mask = None if target is None else batch.mask
        own = view.of_items(batch.index)
        return self.task.predict(outputs, y, own, mask=mask, full=full, levels=levels)

    def close(self) -> None:
        """Close the files."""
        self.loader.close()

    def batches(self, method: Method) -> Iterator[Batch]:
        """Yield the batches of the split; before the first, prepare the method. Collective."""
        here.at(Phase.EVALUATION)
        for number, batch in enumerate(self.loader.epoch(0), 1):
            here.at(Phase.EVALUATION, number)
            if number == 1:
                self._prepare(method, batch)
            yield batch

    def _prepare(self, method: Method, batch: Batch) -> None:
        """Check and measure passes over the first batch. Collective over the world."""
        prepare(
            self._run, method, self.topology, self.collectives, self.samples, batch,
            self._training_set,
        )  # fmt: skip

    def _outputs(self, method: Method, x: Any, index: torch.Tensor) -> torch.Tensor:
        """Evaluate this rank's samples: outputs ``(s, B, ...)``."""
        return local_outputs(method, x, self.samples, self.collectives, index)

    def _counts(self, method: Method) -> list[int]:
        """Return the number of samples on each rank of the sample group. Collective over it."""
        return sample_counts(method, self.samples, self.collectives)

    def _sum(self, state: torch.Tensor) -> None:
        if self.topology.data_size > 1:
            self.collectives.sum_(state, "data")

    def _chains(self, method: Method, view: View) -> ChainTally | None:
        eps = torch.finfo(self._run.dtype).eps
        return ChainTally(method.chains, view.counts, self.collectives, eps)

    def _no_scores(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(self.dataset.count) for name in self.task.scores}

    def _keep(self, scores: dict[str, np.ndarray], batch: Batch, p: Prediction) -> None:
        true = batch.true
        for name, value in p.scores().items():
            each = value.double()
            of = name.rpartition("/")[0]
            mask = batch.mask.get(of) if of and batch.mask is not None else batch.mask
            if _own(name) == "wrong" and mask is not None:
                each = each.masked_fill(~mask, torch.nan)
            scores[name][batch.index[true]] = each.cpu().numpy()[true]

    def _gather(self, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Gather the scores from all data groups: a group adds 0 for items of other groups."""
        whole = torch.from_numpy(np.stack(list(scores.values())))
        self._sum(whole)
        return dict(zip(scores, whole.numpy(), strict=True))


def prepare(
    run: Run,
    method: Method,
    topology: Topology,
    collectives: Collectives,
    samples: int,
    batch: Batch,
    training_set: Callable[[], Dataset],
) -> None:
    """Check that a method can evaluate a batch, and choose how. Collective over the world."""
    mine = method.prediction_share(samples, collectives.sample_size, collectives.sample_rank)
    index, x = torch.from_numpy(batch.index).to(batch.device), batch.x
    with together(topology.world), method.predicting():
        method.observe(x, mine, 0, index=index)
        method.check_passes(x, mine, index=index)
    estimate(run, method, topology, collectives, samples, x, training_set)
    settle(method, x, mine, index, topology.world)


def _own(name: str) -> str:
    """Name of a metric without the prefix of its target."""
    return name.rpartition("/")[2]


def by_target(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Split :attr:`Evaluation.rows` by target; a target without entries is left out."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in rows.items():
        name, _, own = key.rpartition("/")
        found.setdefault(name, {})[own] = value
    for name, of in found.items():
        of["name"] = f"{name} {of['name']}".strip()
    return list(found.values())


def _thinned(curve: np.ndarray, points: int = 200) -> list[float]:
    """Thin a curve over 1/n .. 1 to at most ``points`` equally spaced positions."""
    n = len(curve)
    count = min(n, points)
    return [float(curve[max(1, round(n * (k + 1) / count)) - 1]) for k in range(count)]


def _pass_on(sink: Sink, batch: Batch, arrays: dict[str, np.ndarray]) -> None:
    """Call the sink without the padding of a last batch."""
    true = batch.true
    sink(batch.index[true], {k: v[true] for k, v in arrays.items()})
