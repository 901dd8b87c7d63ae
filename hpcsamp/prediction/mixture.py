"""Evaluate several finished runs as one: the equally weighted mixture of their predictions.

    p(y | x) = (1 / K) sum_k p_k(y | x),        p_k = (1 / S) sum_s p(y | x, w_ks)

(Lakshminarayanan, Pritzel and Blundell 2017 for networks, Wilson and Izmailov 2020 for posteriors.)
The runs may differ in network, method and seed. The ranks of a sample group divide the samples of
each run, and metrics are computed from all K S samples as if one run had drawn them, so they are
exact and do not depend on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hpcsamp.data import Batch, Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import together
from hpcsamp.losses import Likelihood, Likelihoods
from hpcsamp.methods import Method
from hpcsamp.prediction.chains import ChainTally
from hpcsamp.prediction.evaluator import Evaluator, prepare
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.tasks import View
from hpcsamp.tasks.outputs import local_outputs, sample_counts


def evaluate_mixture(
    runs: Sequence[Posterior], *, data: str | Path | None = None, split: str | None = None
) -> dict[str, Any]:
    """Evaluate the mixture of several runs on a split. Collective; no file is written.

    Parameters
    ----------
    runs
        The runs, opened on the same grid and without recalibrations.
    data, split
        See :meth:`Posterior.open`.

    Returns
    -------
    dict
        Metrics and metadata as in ``evaluation/SPLIT.json``; ``runs`` has the metadata of each run.

    Raises
    ------
    DataError, UsageError
        If a dataset does not fit, or the runs cannot be mixed; the same on every rank.
    """
    first = runs[0]
    with together(first.topology.world):
        check(runs)
        dataset = first.open(data, split)
    evaluator = MixtureEvaluator(runs, dataset)
    try:
        found = evaluator.run(first.method, full=True)
    finally:
        evaluator.close()
    facts = [run.facts() for run in runs]
    same = {k: v for k, v in facts[0].items() if k != "noise" and all(f.get(k) == v for f in facts)}
    listed = {
        k: ", ".join(dict.fromkeys(str(f[k]) for f in facts)) for k in ("checkpoint", "method")
    }
    return {
        "dataset": str(dataset.path),
        "split": dataset.split,
        "temperature": 1,
        **same,
        **listed,
        "samples": evaluator.samples,
        "runs": facts,
        "notes": dataset.notes,
        "metrics": found.metrics,
        "units": found.units,
        "definitions": found.definitions,
        "unattained": found.unattained,
        "rows": found.rows,
        "reliability": found.reliability,
    }


class MixtureEvaluator(Evaluator):
    """Evaluates a mixture of runs on one split.

    Parameters
    ----------
    runs
        The runs, see :func:`check`.
    dataset
        Split to evaluate.
    """

    def __init__(self, runs: Sequence[Posterior], dataset: Dataset) -> None:
        first = runs[0]
        super().__init__(
            first.run, dataset, first.topology, first.collectives, first.likelihood,
            samples=sum(run.samples for run in runs),
        )  # fmt: skip
        self.runs = runs

    def _prepare(self, method: Method, batch: Batch) -> None:
        for of in self.runs:
            prepare(
                of.run, of.method, self.topology, self.collectives, of.samples, batch,
                of.training_set,
            )  # fmt: skip

    def _outputs(self, method: Method, x: Any, index: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [local_outputs(of.method, x, of.samples, self.collectives, index) for of in self.runs]
        )

    def _counts(self, method: Method) -> list[int]:
        each = [sample_counts(of.method, of.samples, self.collectives) for of in self.runs]
        return [sum(counts) for counts in zip(*each, strict=True)]

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
                a, b = first.restored.folder.path, other.restored.folder.path
                raise UsageError(
                    f"{a} and {b} cannot be evaluated as one mixture: they have different {what}: "
                    f"{fact(first)!s:.80} and {fact(other)!s:.80}"
                )
    for of in runs:
        if of.method.spread is not None:
            raise UsageError(
                f"{of.restored.folder.path}: its network is split over model ranks, which a "
                f"mixture cannot evaluate; add --set parallel.model=1"
            )


def _facts(likelihood: Likelihood) -> Any:
    if isinstance(likelihood, Likelihoods):
        return {name: _facts(of) for name, of in likelihood.each.items()}
    return type(likelihood).__name__, vars(likelihood)
