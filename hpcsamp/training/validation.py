"""Evaluate the ``valid`` split during training."""

from __future__ import annotations

from hpcsamp.collectives import Collectives
from hpcsamp.data import Dataset
from hpcsamp.grid import Topology
from hpcsamp.losses import Likelihood
from hpcsamp.prediction import noise
from hpcsamp.prediction.evaluator import Evaluation, Evaluator
from hpcsamp.run.assemble import Run


class Validation:
    """Evaluates the current state of a run. The constructor and all methods are collective.

    Parameters
    ----------
    run
        Run to evaluate, with the settings in ``evaluation`` of its configuration.
    dataset
        Split to evaluate.
    topology, collectives
        Grid, and transport between its ranks.

    Attributes
    ----------
    metrics
        Metrics of the last evaluation; empty before the first.
    watched
        Metric by which states are compared.
    """

    def __init__(
        self, run: Run, dataset: Dataset, topology: Topology, collectives: Collectives
    ) -> None:
        self.method = run.method
        self.metrics: dict[str, float] = {}
        self.step = -1
        self._asked = run.config.evaluation.samples
        self.watched: str = run.config.training.best
        samples = run.method.prediction_samples(self._asked)
        self._evaluator = Evaluator(
            run, dataset, topology, collectives, run.likelihood, samples=samples
        )

    @property
    def likelihood(self) -> Likelihood:
        """Observation model, with the noise width that the last evaluation estimated, if any."""
        return self._evaluator.likelihood

    def run(self) -> tuple[Evaluation, float]:
        """Evaluate; return the results and the score that compares states (lower is better)."""
        evaluator, best = self._evaluator, self.watched
        evaluator.samples = self.method.prediction_samples(self._asked)  # chains collect samples
        if noise.is_open(evaluator.likelihood):
            evaluator.likelihood = noise.fit(evaluator, self.method)
        found = evaluator.run(self.method)
        known = evaluator.task.best
        if best not in found.metrics:  # methods that only have samples have no predictive density
            best = self.watched = next(name for name in known if name in found.metrics)
        self.metrics, self.step = found.metrics, self.method.step
        return found, known[best] * found.metrics[best]

    def close(self) -> None:
        """Close the files. Collective."""
        self._evaluator.close()
