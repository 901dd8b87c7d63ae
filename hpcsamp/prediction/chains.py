"""Convergence of chains in function space: R-hat and effective sample size of the predictions.

The weights of a network have many equivalent modes, so that chains which agree in all predictions
may differ in their weights. The draws of a chain are therefore the predictions of its samples for
each item: class probabilities, or means of values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.grid import share
from hpcsamp.metrics.chains import FOR_ESS, FOR_R_HAT, THRESHOLD, diagnose
from hpcsamp.tasks import Prediction
from hpcsamp.tasks.gathered import CHUNK
from hpcsamp.tasks.several import SeveralPrediction


class ChainTally:
    """R-hat and effective sample size over all predicted values of a split.

    Parameters
    ----------
    chains
        Number of chains, which divide the prediction samples in order (:func:`share`). Draws at the
        beginning of longer chains are left out.
    counts
        Number of prediction samples on each rank of the sample group.
    group
        Collectives.
    eps
        Rounding error of the network's outputs, relative.
    """

    def __init__(self, chains: int, counts: Sequence[int], group: Collectives, eps: float) -> None:
        samples = sum(counts)
        own = [share(samples, chains, chain) for chain in range(chains)]
        self.draws = min(len(of) for of in own)
        self._rows = torch.tensor([list(of[len(of) - self.draws :]) for of in own]).flatten()
        self._chains, self._counts, self._group, self._eps = chains, counts, group, eps
        self._extremes: dict[str, Tensor] = {}
        self._numbers: dict[str, Tensor] = {}

    def update(self, prediction: Prediction, true: np.ndarray) -> None:
        """Add a batch. Collective over the sample group.

        Parameters
        ----------
        prediction
            Predictions, of which ``samples`` are those of this rank.
        true
            ``(B,)``: False for padding.
        """
        if self.draws < FOR_R_HAT:
            return
        keep = torch.from_numpy(np.flatnonzero(true))
        for name, samples in _samples(prediction).items():
            own = samples[keep.to(samples.device)].movedim(0, 1)
            self._add(name, own.flatten(1).double())

    def _add(self, name: str, own: Tensor) -> None:
        """Add values ``(s, V)`` of a target: all their samples are gathered in pieces of bounded
        size, and each rank diagnoses its share of a piece.
        """
        extremes = self._extremes.setdefault(name, torch.full((2,), -math.inf).double())
        numbers = self._numbers.setdefault(name, torch.zeros(2, dtype=torch.float64))
        rows, group = self._rows.to(own.device), self._group
        step = max(1, CHUNK // len(rows))
        for low in range(0, own.shape[1], step):
            piece = own[:, low : low + step].contiguous()
            every = group.gather_over_samples(piece, self._counts)
            mine = share(piece.shape[1], group.sample_size, group.sample_rank)
            if len(mine) == 0:
                continue
            draws = every[rows, mine.start : mine.stop]
            r_hat, ess = diagnose(draws.reshape(self._chains, self.draws, -1), self._eps)
            found = torch.stack([r_hat, -ess]).nan_to_num(-math.inf, math.inf, -math.inf)
            torch.maximum(extremes, found.amax(1).cpu(), out=extremes)
            varies = ~r_hat.isnan()
            numbers += torch.stack([varies.sum(), (r_hat > THRESHOLD).sum()]).cpu()

    def result(self) -> tuple[dict[str, float], dict[str, str]]:
        """Return the metrics, and those that cannot be computed, with the reason. Collective."""
        metrics: dict[str, float] = {}
        missing: dict[str, str] = {}
        for name in self._extremes:
            extremes, numbers = self._extremes[name], self._numbers[name]
            if self._group.size("replicas") > 1:
                self._group.max_(extremes, "replicas")
                self._group.sum_(numbers, "replicas")
            (worst, least), (values, above) = extremes.tolist(), numbers.tolist()
            if values == 0:
                missing |= {f"{name}{k}": "no prediction varies" for k in ("r_hat", "ess")}
                continue
            metrics |= {f"{name}r_hat": worst, f"{name}r_hat_above": above / values}
            if self.draws >= FOR_ESS:
                metrics[f"{name}ess"] = -least
        if self.draws < FOR_R_HAT:
            missing["r_hat"] = self._too_few(FOR_R_HAT)
        if self.draws < FOR_ESS:
            missing["ess"] = self._too_few(FOR_ESS)
        return metrics, missing

    def _too_few(self, needed: int) -> str:
        return f"{self.draws} draws per chain; at least {needed} are needed"


def _samples(prediction: Prediction) -> Mapping[str, Tensor]:
    """Predictions ``(B, s, ...)`` of this rank's samples, by the prefix of each target."""
    each: Mapping[str, Prediction] = {"": prediction}
    if isinstance(prediction, SeveralPrediction):
        each = {f"{name}/": of for name, of in prediction.each.items()}
    arrays = {name: of.lazy() for name, of in each.items()}
    return {name: of["samples"]() for name, of in arrays.items() if "samples" in of}
