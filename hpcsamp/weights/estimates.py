"""Running statistics of batch normalisation for prediction samples, one set per sample.

The weights of a prediction sample may never have been trained, so the running statistics of
training do not belong to them (Maddox et al. 2019, section 3.2). While statistics are estimated,
passes in prediction normalise by their batch, and the mean over batches of each batch's mean and
unbiased variance is kept, as nn.BatchNorm does with ``momentum = None``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Estimates:
    """Estimated statistics of the prediction samples of this rank.

    Attributes
    ----------
    of
        Number of samples of the predictive distribution for which they were last estimated; None if
        there are no estimates.
    weight
        Weight of the current passes: 0 for a repeated batch.
    """

    def __init__(self) -> None:
        self.of: int | None = None
        self.weight = 1.0
        self._wanted: Mapping[nn.Module, Collection[str]] | None = None
        self._known: dict[int, dict[str, Tensor]] = {}
        self._sums: dict[tuple[int, str], tuple[Tensor, float, torch.dtype]] = {}

    @property
    def running(self) -> bool:
        """Whether statistics are being estimated."""
        return self._wanted is not None

    def wants(self, module: nn.Module, name: str | None) -> bool:
        """Whether statistics of this name are being estimated."""
        return self._wanted is not None and name in self._wanted.get(module, ())

    @property
    def met(self) -> bool:
        """Whether passes have added statistics to the estimates."""
        return bool(self._sums)

    def forget(self) -> None:
        """Forget the estimates, because weights or samples have changed."""
        self.of = None
        self._known.clear()

    @contextmanager
    def estimating(self, wanted: Mapping[nn.Module, Collection[str]]) -> Iterator[None]:
        """Context in which passes in prediction normalise by their batch and add its statistics.

        Parameters
        ----------
        wanted
            Names of the running statistics of each module that are estimated.
        """
        self._wanted = wanted
        self._sums.clear()
        try:
            yield
        finally:
            self._wanted, self.weight = None, 1.0

    def add(self, samples: Sequence[int], name: str, values: Tensor, kind: torch.dtype) -> None:
        """Add ``(k, C)`` or ``(1, C)`` statistics of a pass; they are kept in type ``kind``."""
        values = values.detach().double() * self.weight
        for row, sample in enumerate(samples):
            own = values[row if len(values) > 1 else 0]
            total, weight, _ = self._sums.get((sample, name), (torch.zeros_like(own), 0.0, kind))
            self._sums[sample, name] = total + own, weight + self.weight, kind

    def finish(self, samples: int, sum_: Callable[[Tensor], None]) -> None:
        """Keep the means of the added statistics, over all data groups.

        Parameters
        ----------
        samples
            See :attr:`of`.
        sum_
            Sums over the data groups, in place.
        """
        self._known, self.of = {}, samples
        if not self._sums:
            return
        keys = sorted(self._sums)
        totals, weights, kinds = zip(*(self._sums[key] for key in keys), strict=True)
        flat = torch.cat([*totals, totals[0].new_tensor(weights)])
        sum_(flat)
        *sums, counts = flat.split([*(len(total) for total in totals), len(keys)])
        for (sample, name), total, count, kind in zip(keys, sums, counts, kinds, strict=True):
            self._known.setdefault(sample, {})[name] = (total / count).to(kind)
        self._sums.clear()

    def of_samples(self, samples: Sequence[int]) -> dict[str, Tensor]:
        """Return ``(k, C)`` statistics of some samples by name; empty if there are none."""
        if self.running or not self._known or any(s not in self._known for s in samples):
            return {}
        own = [self._known[sample] for sample in samples]
        return {name: torch.stack([one[name] for one in own]) for name in own[0]}
