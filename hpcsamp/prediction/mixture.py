"""Several finished runs as one: the equally weighted mixture of their predictive distributions.

    p(y | x) = (1 / K) sum_k p_k(y | x),        p_k = (1 / S) sum_s p(y | x, w_ks)

(Lakshminarayanan, Pritzel and Blundell 2017 for networks, Wilson and Izmailov 2020 for posteriors.)
The runs may differ in network, method and seed. The ranks of a sample group divide the samples of
each run, and predictions and metrics are computed from all K S samples as if one run had drawn
them, so they are exact and do not depend on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from hpcsamp.data import Batch, Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import together
from hpcsamp.losses import Likelihood, Likelihoods
from hpcsamp.methods import Method
from hpcsamp.prediction.chains import ChainTally
from hpcsamp.prediction.evaluator import Evaluator, prepare
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predicting import Predicting
from hpcsamp.prediction.settling import Passed
from hpcsamp.tasks import Task, View
from hpcsamp.tasks.outputs import local_outputs

if TYPE_CHECKING:
    from hpcsamp.prediction.load import LoadedPosterior
    from hpcsamp.weights.calling import Outputs


class Mixture(Posterior):
    """The mixture of several runs with equal weights. Collective over the world.

    Its samples are those of the first run, then those of the second, and so on.

    Parameters
    ----------
    runs
        The runs, opened on the same grid and without recalibrations.

    Raises
    ------
    UsageError
        If the runs cannot be mixed, see :func:`check`; the same on every rank.
    """

    def __init__(self, runs: Sequence[Posterior]) -> None:
        first = runs[0]
        with together(first.topology.world):
            check(runs)
        self.runs = runs
        self.restored, self.topology, self.trained = first.restored, first.topology, first.trained
        self.run, self.method, self.config = first.run, first.method, first.config
        self.collectives, self.likelihood = first.collectives, first.likelihood
        self.task, self.recalibration, self.notes = first.run.task, None, []
        self.noise: dict[str, Any] = {}  # a learnt noise differs between the runs
        self.passed = Passed()
        self.samples = sum(run.samples for run in runs)

    def with_samples(self, samples: int | None) -> Self:
        """Return the mixture with another number of samples of each run. Collective."""
        if samples is None:
            return self
        return type(self)([run.with_samples(samples) for run in self.runs])

    def facts(self) -> dict[str, Any]:
        """Facts of the runs: those that are equal in all, and names of runs and their methods."""
        each = [run.facts() for run in self.runs]
        named = ("run", "checkpoint", "method")
        return {
            **{k: v for k, v in each[0].items() if all(of.get(k) == v for of in each)},
            **{k: ", ".join(dict.fromkeys(str(of[k]) for of in each)) for k in named},
            "samples": self.samples,
        }

    def evaluator(self, dataset: Dataset, task: Task | None = None) -> Evaluator:
        """See :meth:`Posterior.evaluator`."""
        return MixtureEvaluator(self, dataset)

    def places(self) -> list[range]:
        """See :meth:`Posterior.places`: one range for each run."""
        found, first = [], 0
        for run in self.runs:
            [own] = run.places()
            found.append(range(first + own.start, first + own.stop))
            first += run.samples
        return found

    def counts(self) -> list[int]:
        """See :meth:`Posterior.counts`."""
        each = [run.counts() for run in self.runs]
        return [sum(counts) for counts in zip(*each, strict=True)]

    def estimate(self, x: Any) -> None:
        """See :meth:`Posterior.estimate`."""
        for run in self.runs:
            run.estimate(x)

    def settle(self, x: Any, index: Tensor) -> None:
        """See :meth:`Posterior.settle`."""
        for run in self.runs:
            run.settle(x, index)

    def outputs(self, batches: Sequence[tuple[Any, Tensor]]) -> Tensor:
        """See :meth:`Posterior.outputs`."""
        return self.joined([run.outputs(batches) for run in self.runs])

    def joined(self, outputs: Sequence[Tensor]) -> Tensor:
        """Concatenate the outputs of the runs, ``(s, B, ...)`` each.

        Raises
        ------
        UsageError
            If the networks return several outputs that are packed differently.
        """
        first = self.runs[0].method.outputs
        for run in self.runs[1:]:
            other = run.method.outputs
            if _order(first) != _order(other):
                raise _differ(self.runs[0], run, "outputs", _order(first), _order(other))
        return torch.cat(list(outputs))


class LoadedMixture(Mixture, Predicting):
    """The mixture of several runs with equal weights, in this process only; see ``hs.load``.

    Attributes
    ----------
    runs
        The runs, from which weights are drawn and networks are exported.
    samples
        Number of samples of all runs together.
    """

    runs: Sequence[LoadedPosterior]

    def __repr__(self) -> str:
        return f"<mixture of {len(self.runs)} runs: {', '.join(map(repr, self.runs))}>"


def evaluate_mixture(
    mixture: Mixture, *, data: str | Path | None = None, split: str | None = None
) -> dict[str, Any]:
    """Evaluate the mixture of several runs on a split. Collective; no file is written.

    Parameters
    ----------
    data, split
        See :meth:`Posterior.open`.

    Returns
    -------
    dict
        Metrics and metadata as in ``evaluation/SPLIT.json``; ``runs`` has the metadata of each run.

    Raises
    ------
    DataError
        If a dataset does not fit; the same on every rank.
    """
    with together(mixture.topology.world):
        dataset = mixture.open(data, split)
    evaluator = mixture.evaluator(dataset)
    try:
        found = evaluator.run(mixture.method, full=True)
    finally:
        evaluator.close()
    return {
        "dataset": str(dataset.path),
        "split": dataset.split,
        "temperature": 1,
        **mixture.facts(),
        "runs": [run.facts() for run in mixture.runs],
        "notes": dataset.notes,
        "metrics": found.metrics,
        "units": found.units,
        "definitions": found.definitions,
        "unattained": found.unattained,
        "rows": found.rows,
        **({"series": found.series} if found.series else {}),
        "reliability": found.reliability,
    }


class MixtureEvaluator(Evaluator):
    """Evaluates a mixture of runs on one split."""

    def __init__(self, mixture: Mixture, dataset: Dataset) -> None:
        super().__init__(
            mixture.run, dataset, mixture.topology, mixture.collectives, mixture.likelihood,
            samples=mixture.samples,
        )  # fmt: skip
        self.mixture = mixture

    def _prepare(self, method: Method, batch: Batch) -> None:
        for of in self.mixture.runs:
            prepare(
                of.run, of.method, self.topology, self.collectives, of.samples, batch,
                of.training_set,
            )  # fmt: skip

    def _outputs(self, method: Method, x: Any, index: Tensor) -> Tensor:
        group = self.collectives
        return self.mixture.joined(
            [local_outputs(of.method, x, of.samples, group, index) for of in self.mixture.runs]
        )

    def _counts(self, method: Method) -> list[int]:
        return self.mixture.counts()

    def _chains(self, method: Method, view: View) -> ChainTally | None:
        return None  # convergence of chains is undefined across several runs


def check(runs: Sequence[Posterior]) -> None:
    """Check that runs can be mixed.

    Raises
    ------
    UsageError
        If they were trained on different datasets, predict different targets or with other
        observation models, in another precision, or with different numbers of samples.
    """
    first = runs[0]
    facts = {
        "datasets": lambda of: of.trained.manifest.uid,
        "targets": lambda of: (type(of.run.task).__name__, vars(of.run.shapes.targets)),
        "floating-point types": lambda of: of.run.dtype,
        "numbers of samples (see --samples)": lambda of: of.samples,
        "observation models": lambda of: _facts(of.likelihood),
    }
    for what, fact in facts.items():
        for other in runs[1:]:
            if fact(first) != fact(other):
                raise _differ(first, other, what, fact(first), fact(other))
    for of in runs:
        if of.method.spread is not None:
            raise UsageError(
                f"{of.restored.folder.path}: its network is split over model ranks, which a "
                f"mixture cannot evaluate; add --set parallel.model=1"
            )


def _differ(a: Posterior, b: Posterior, what: str, one: Any, other: Any) -> UsageError:
    return UsageError(
        f"{a.restored.folder.path} and {b.restored.folder.path} cannot be mixed: they have "
        f"different {what}: {one!s:.80} and {other!s:.80}"
    )


def _order(outputs: Outputs | None) -> Any:
    """Names and shapes of several outputs in their order, None for one output."""
    return None if outputs is None else tuple(outputs.shapes.items())


def _facts(likelihood: Likelihood) -> Any:
    if isinstance(likelihood, Likelihoods):
        return {name: _facts(of) for name, of in likelihood.each.items()}
    return type(likelihood).__name__, vars(likelihood)
