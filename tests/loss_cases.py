"""Every loss with outputs and targets that suit it; ranks are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from hpcsamp import losses as L  # noqa: N812
from hpcsamp.collectives import Collectives
from hpcsamp.config import RESULTS

ITEMS, ROWS, COLUMNS, CLASSES = 6, 2, 3, 4
VALUES = ROWS * COLUMNS


@dataclass
class Case:
    """A loss, and the kind of its target: labels, values, counts or values with widths."""

    name: str
    loss: L.DataLoss
    kind: str

    @property
    def outputs_per_item(self):
        return {"labels": CLASSES, "widths": 2 * VALUES}.get(self.kind, VALUES)

    def target(self, items=ITEMS, dtype=torch.float64, seed=1):
        g = torch.Generator().manual_seed(seed)
        if self.kind == "labels":
            return torch.randint(0, CLASSES, (items,), generator=g)
        if self.kind == "counts":
            return torch.randint(0, 5, (items, ROWS, COLUMNS), generator=g).to(dtype)
        return torch.randn(items, ROWS, COLUMNS, generator=g, dtype=torch.float64).to(dtype)

    def outputs(self, samples, items=ITEMS, dtype=torch.float64, seed=2):
        g = torch.Generator().manual_seed(seed)
        flat = torch.randn(samples, items, self.outputs_per_item, generator=g, dtype=torch.float64)
        return flat.to(dtype)


class CubedBias(L.StatisticsLoss):
    """A user's own loss with two hooks."""

    def statistics(self, outputs, target):
        return L.like_target(outputs, target) - target

    def from_mean(self, mean, target, samples):
        return mean**3


class WithStd(L.CRPS):
    """A user's own loss, with an argument that likelihoods also have, and one for evaluations."""

    def __init__(self, std: float = 1.0, level: Annotated[float, RESULTS] = 0.9, **others: Any):
        super().__init__(**others)
        self.std, self.level = std, level


def spread(outputs, target):
    """A user's own loss as a callable of all samples."""
    return outputs.flatten(2).var(0, correction=0).exp().sum(-1)


AREA = L.latitude_weights([-60.0, 20.0])


def cases():
    softened = L.StudentT(3.0, 0.7)
    return [
        Case("expected categorical", L.ExpectedNLL(L.Categorical()), "labels"),
        Case("expected gaussian", L.ExpectedNLL(L.Gaussian(0.3), weights=AREA), "values"),
        Case("expected predicted", L.ExpectedNLL(L.PredictedGaussian()), "widths"),
        Case("expected poisson", L.ExpectedNLL(L.Poisson()), "counts"),
        Case("expected student", L.ExpectedNLL(softened), "values"),
        Case("beta", L.BetaNLL(beta=0.0, weights=AREA), "widths"),
        Case("predictive categorical", L.PredictiveNLL(L.Categorical()), "labels"),
        Case("predictive poisson", L.PredictiveNLL(L.Poisson(), weights=AREA), "counts"),
        Case("mixture", L.GaussianMixtureNLL(weights=AREA), "widths"),
        Case("alpha", L.AlphaDivergence(softened, 0.5, weights=AREA), "values"),
        Case("alpha < 0", L.AlphaDivergence(L.Categorical(), -1.0), "labels"),
        Case("importance", L.ImportanceWeightedELBO(L.Gaussian(0.8), weights=AREA), "values"),
        Case("mse", L.MeanMSE(weights=AREA), "values"),
        Case("moments bare", L.GaussianMomentsNLL(), "values"),
        Case("moments", L.GaussianMomentsNLL(noise=0.2, weights=AREA), "values"),
        Case("crps fair", L.CRPS(weights=AREA), "values"),
        Case("crps plain", L.CRPS(fair=False), "values"),
        Case("crps almost fair", L.CRPS(alpha=0.95), "values"),
        Case("energy fair", L.EnergyScore(weights=AREA), "values"),
        Case("energy plain", L.EnergyScore(fair=False), "values"),
        Case("energy almost fair", L.EnergyScore(alpha=0.95), "values"),
        Case("user's hooks", CubedBias(weights=AREA), "values"),
        Case("user's callable", L.Custom(spread), "values"),
    ]


class Crowd:
    """A sample group of threads, with all collectives of a grid in one process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.slots: list[Any] = [None] * size
        self.bytes = 0

    def run(self, work: Callable[[Collectives], Any]) -> list[Any]:
        """Run ``work(collectives)`` on every rank; re-raise the error of a rank."""
        results: list[Any] = [None] * self.size
        errors: list[BaseException] = []

        def rank(p: int) -> None:
            try:
                results[p] = work(Member(self, p))
            except threading.BrokenBarrierError:
                pass
            except BaseException as e:
                errors.append(e)
                self.barrier.abort()

        threads = [threading.Thread(target=rank, args=(p,)) for p in range(self.size)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if errors:
            raise errors[0]
        return results

    def exchange(self, p: int, x: torch.Tensor) -> list[torch.Tensor]:
        self.slots[p] = x.clone()
        self.barrier.wait(20)
        everyone = list(self.slots)
        self.barrier.wait(20)
        return everyone


class Member(Collectives):
    name = "threads"

    def __init__(self, crowd: Crowd, p: int) -> None:
        self.crowd, self.sample_size, self.sample_rank = crowd, crowd.size, p

    def _count(self, x: torch.Tensor) -> None:
        if self.sample_rank == 0:
            self.crowd.bytes += x.numel() * x.element_size()

    def sum_(self, x, over):
        self._count(x)
        x.copy_(torch.stack(self.crowd.exchange(self.sample_rank, x)).sum(0))

    def max_(self, x, over):
        self._count(x)
        x.copy_(torch.stack(self.crowd.exchange(self.sample_rank, x)).max(0).values)

    def gather(self, x, counts, over):
        everyone = torch.cat(self.crowd.exchange(self.sample_rank, x))
        assert everyone.shape[0] == sum(counts)
        self._count(everyone)
        return everyone

    def all_to_all(self, x, counts, over):
        parts = self.crowd.exchange(self.sample_rank, x)
        split = [y.split(row)[self.sample_rank] for y, row in zip(parts, counts, strict=True)]
        found = torch.cat(split)
        self._count(found)
        return found

    def total(self, numbers, over):  # is not counted: no part of a loss
        return sum(self.crowd.exchange(self.sample_rank, torch.from_numpy(numbers))).numpy()

    def copy_first_(self, x, over): ...
    def tell(self, thing, over): ...
