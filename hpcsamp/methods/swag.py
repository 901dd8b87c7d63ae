"""Multi-SWAG: a normal distribution around the path of each of S chains of SGD.

A chain is trained by any optimiser. From some step on, the moments of its weights along the path
are collected; the last deviations from their mean are the columns of D. A prediction sample is

    w = mean + std z1 / sqrt(2) + D z2 / sqrt(2 (k - 1)),        z1, z2 standard normal

with k columns, so that its covariance is ``(diag(std^2) + D D' / (k - 1)) / 2``; with rank 0 it is
``mean + std z1``. (Maddox et al. 2019, algorithm 1; many chains: Wilson and Izmailov 2020.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.members import Members
from hpcsamp.streams import Purpose
from hpcsamp.streams.noise import fill


class SWAG(Members):
    """S chains of SGD, each with a normal distribution of diagonal plus low-rank covariance.

    Parameters
    ----------
    network, samples, own, prior_std, others
        See :class:`~hpcsamp.methods.members.Members`.
    start
        Fraction of the run after which weights are collected, at least 0 and below 1.
    every
        Steps from one collection to the next (default: an epoch, or less if that is too seldom for
        ``rank`` deviations). The last collection is at the end of the run.
    rank
        Number of deviations kept; 0 for a diagonal covariance, otherwise at least 2.

    Attributes
    ----------
    mean
        ``(s, n)`` mean of the collected weights.
    squares
        ``(s, n)`` sum of squared deviations from it (by Welford's update: a mean of squares minus
        a squared mean loses all digits where the mean is much larger than the spread).
    deviations
        ``(s, rank, n)``: weights minus the mean so far, of the last collections.
    collected
        Number of collections so far.

    Raises
    ------
    UsageError
        If a value is out of range; from :meth:`begin`, if a run is too short for its deviations.
    """

    draws_weights = True
    trains_with_noise = False
    mean: Tensor
    squares: Tensor
    deviations: Tensor
    collected: Tensor

    def __init__(
        self,
        network: Callable[[int], nn.Module] | nn.Module,
        samples: int,
        own: range | None = None,
        *,
        prior_std: float | None = None,
        start: float = 0.75,
        every: int | None = None,
        rank: int = 10,
        **others: Any,
    ) -> None:
        super().__init__(network, samples, own, prior_std=prior_std, **others)
        if not 0 <= start < 1:
            raise UsageError(f"method.start = {start} must be a fraction of at least 0 and below 1")
        if every is not None and every < 1:
            raise UsageError(f"method.every = {every} must be at least 1 step")
        if rank < 0 or rank == 1:
            raise UsageError(f"method.rank = {rank} must be 0 (diagonal) or at least 2")
        self.start, self.every, self.rank = start, every, rank
        self._times: range | None = None
        zeros = torch.zeros_like(self.weights.detach())
        self.register_buffer("mean", zeros)
        self.register_buffer("squares", zeros.clone())
        self.register_buffer("deviations", zeros.new_zeros(len(zeros), rank, zeros.shape[1]))
        self.register_buffer("collected", torch.zeros((), dtype=torch.int64))

    def begin(self, items: int, steps: int, steps_per_epoch: int) -> None:
        """See :meth:`Method.begin`.

        Raises
        ------
        UsageError
            If there are too few collections.
        """
        room, least = steps - math.floor(steps * self.start + 1e-9), max(self.rank, 2)
        every = self.every or max(1, min(steps_per_epoch, room // least))
        if room // every < least:
            raise UsageError(
                f"method.rank = {self.rank} needs {least} collections, but every {every} of the "
                f"last {room} of {steps} steps (method.start = {self.start}) are {room // every}"
            )
        first = steps - (room // every - 1) * every
        self._times = range(first, steps + 1, every)

    def after_step(self) -> None:
        """Collect the weights, if a collection is due."""
        if self._times is None or self.step not in self._times:
            return
        weights, count = self.weights.detach(), int(self.collected) + 1
        before = weights - self.mean
        self.mean.add_(before, alpha=1 / count)
        after = weights - self.mean
        self.squares.addcmul_(before, after)
        if self.rank:
            self.deviations[:, (count - 1) % self.rank].copy_(after)
        self.collected.fill_(count)

    @property
    def estimates_statistics(self) -> bool:
        """See :attr:`.Stepping.estimates_statistics`; draws differ from the weights on the path."""
        return int(self.collected) > 1

    # Prediction --------------------------------------------------------------------------------

    @property
    def chains(self) -> int:  # type: ignore[override]
        """Number of chains: one per sample of the training."""
        return self.samples

    def prediction_samples(self, asked: int | None) -> int:
        """Return the requested number, at least one sample of each chain.

        Raises
        ------
        UsageError
            If fewer samples than chains are requested.
        """
        if asked is not None and asked < self.samples:
            raise UsageError(
                f"evaluation.samples = {asked} is less than the {self.samples} chains of swag, "
                f"each of which needs one"
            )
        return max(self.usual_prediction_samples, self.samples) if asked is None else asked

    def prediction_rows(self, samples: range) -> Tensor:
        """Return ``(k, n)`` draws; before two collections, the means or the chains' states."""
        return torch.stack([self._draw(s) for s in samples])

    def _draw(self, sample: int) -> Tensor:
        row, _, _ = self.place(sample)
        count = int(self.collected)
        if count < 2:
            return (self.mean if count else self.weights.detach())[row]
        mean, std = self.mean[row], (self.squares[row] / count).sqrt()
        own, noise = range(sample, sample + 1), torch.empty_like(mean)
        self.layout.draw(noise[None], self.seed, Purpose.PREDICT_WEIGHTS, 0, own)
        self.without_deterministic(std)
        if not self.rank:
            return mean + std * noise
        columns = min(count, self.rank)
        factors = mean.new_empty(1, columns)
        fill(factors, self.seed, Purpose.FACTORS, 0, own, self.rank)
        low = factors[0] @ self.deviations[row, :columns]
        self.without_deterministic(low)
        return mean + std * noise / math.sqrt(2) + low / math.sqrt(2 * (columns - 1))
