"""An evaluation of a whole split: samples over sample groups, items over data groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpcsamp.collectives import Collectives
from hpcsamp.data import Batch, Dataset, Loader
from hpcsamp.losses import Likelihood
from hpcsamp.methods import Method
from hpcsamp.prediction.metrics import ClassificationMetrics, RegressionMetrics
from hpcsamp.prediction.predictive import predict_classes, predict_values
from hpcsamp.topology import Topology

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    metrics
        By name, the same on every rank.
    reliability
        Bins of the reliability diagram (classification), or coverage by level (regression).
    items
        Per item of this data group, as arrays by name: ``index``, ``target``, ``probabilities`` or
        ``mean`` and ``std``, and the uncertainties ``total``, ``aleatoric``, ``epistemic``.
    """

    metrics: dict[str, float]
    reliability: dict[str, list[float]]
    items: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator:
    """Evaluates a method on one split, as often as asked.

    Parameters
    ----------
    dataset
        The split.
    samples
        ``S`` of the predictive distribution.
    batch
        Items at once over all data groups; rounded up to a multiple of D (no item is left out or
        counted twice, so the metrics do not depend on it).
    bins
        Bins of the calibration metrics.
    """

    def __init__(
        self,
        dataset: Dataset,
        topology: Topology,
        collectives: Collectives,
        likelihood: Likelihood,
        *,
        samples: int,
        batch: int,
        bins: int,
        dtype: torch.dtype,
        reader: Any = "auto",
    ) -> None:
        self.dataset = dataset
        self.topology = topology
        self.collectives = collectives
        self.likelihood = likelihood
        self.samples = samples
        self.bins = bins
        groups = topology.data_size
        self.loader = Loader(
            dataset,
            topology,
            batch=-(-batch // groups) * groups,
            shuffle=False,
            tail="mask",
            reader=reader,
            dtype=dtype,
        )

    def run(self, method: Method, keep_items: bool = False) -> Evaluation:
        """Evaluate. Collective over the world."""
        kept: list[dict[str, np.ndarray]] = []
        evaluate = self._classes if self.dataset.task == "classification" else self._values
        metrics, state = evaluate(method, kept if keep_items else None)
        if self.topology.data_size > 1:
            self.collectives.data_sum_(state)
        items = {k: np.concatenate([part[k] for part in kept]) for k in kept[0]} if kept else {}
        return Evaluation(metrics.compute(), metrics.reliability(), items)

    def close(self) -> None:
        """Let go of the files."""
        self.loader.close()

    def _batches(self) -> Iterator[Batch]:
        return self.loader.epoch(0)

    def _classes(self, method: Method, kept: list[dict[str, np.ndarray]] | None) -> Any:
        assert self.dataset.classes is not None
        metrics = ClassificationMetrics(self.dataset.classes, self.bins)
        for batch in self._batches():
            p = predict_classes(method, batch.x, self.samples, self.collectives)
            metrics.update(p.log_probabilities, batch.y, batch.weight, p.aleatoric)
            if kept is not None:
                total = -(p.log_probabilities.exp() * p.log_probabilities).nan_to_num().sum(-1)
                kept.append(
                    _true_items(
                        batch,
                        probabilities=p.log_probabilities.exp().float(),
                        total=total,
                        aleatoric=p.aleatoric,
                        epistemic=total - p.aleatoric,
                    )
                )
        return metrics, metrics.state

    def _values(self, method: Method, kept: list[dict[str, np.ndarray]] | None) -> Any:
        metrics = RegressionMetrics()
        for batch in self._batches():
            p = predict_values(
                method, batch.x, batch.y, self.samples, self.collectives, self.likelihood
            )
            total = p.aleatoric + p.epistemic
            metrics.update(p.mean, total, batch.y, batch.weight, p.log_density)
            if kept is not None:
                kept.append(
                    _true_items(
                        batch,
                        mean=p.mean,
                        std=total.sqrt(),
                        total=total.flatten(1).mean(1) if total.dim() > 1 else total,
                        aleatoric=p.aleatoric.flatten(1).mean(1)
                        if total.dim() > 1
                        else p.aleatoric,
                        epistemic=p.epistemic.flatten(1).mean(1)
                        if total.dim() > 1
                        else p.epistemic,
                    )
                )
        return metrics, metrics.state


def _true_items(batch: Batch, **values: torch.Tensor) -> dict[str, np.ndarray]:
    """Arrays without the padding of a last batch."""
    true = batch.weight.cpu().numpy() > 0
    arrays = {"index": batch.index, "target": batch.y.cpu().numpy()}
    arrays |= {k: v.cpu().numpy() for k, v in values.items()}
    return {k: v[true] for k, v in arrays.items()}


def gather_items(items: dict[str, np.ndarray], topology: Topology) -> dict[str, np.ndarray] | None:
    """The items of all data groups in the order of their index, on the world's root only."""
    comm: MPI.Comm = topology.world
    parts = comm.gather(items if topology.sample_rank == 0 else None)
    if parts is None:
        return None
    present = [p for p in parts if p]
    whole = {k: np.concatenate([p[k] for p in present]) for k in present[0]}
    order = np.argsort(whole["index"], kind="stable")
    return {k: v[order] for k, v in whole.items()}
