"""State that a module advances in its forward passes: once a step, the same on any grid.

Every pass of a step begins with the state that the module had before the step. What the passes of
all samples and data groups leave is brought together when the step is over:

    numbers      the mean over samples, and over items of the data groups; a value that kept its
                 norm in every pass (the vectors of a power iteration) keeps it in the mean
    integers     what the pass of the first sample has left in the first data group

Where each sample has a module of its own (members, chains), the mean is that of its own passes.
Running statistics of batch normalisation are such numbers; their passes leave what
:mod:`hpcsamp.weights.routing.normalisation` has them leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpcsamp.weights.estimates import Estimates
from hpcsamp.weights.group import Group
from hpcsamp.weights.parts import parts_of
from hpcsamp.weights.put import Put

NORMS = ("batch", "frozen", "group")
"""The whole batch of a step; the running statistics; group normalisation in its place."""

#: Relative difference of two norms that are the same: initial vectors may be of less precision.
SAME_NORM = 1e-5


class Left(NamedTuple):
    """What the pass of a sample has left.

    Attributes
    ----------
    values
        By name.
    items
        Of the pass.
    """

    values: Mapping[str, Tensor]
    items: int


class State:
    """The state of a method's modules.

    Attributes
    ----------
    changing
        Names of buffers that passes in training change, as far as they were observed, and whether
        they are numbers, not integers.
    norm
        By what batch normalisation goes in training, one of :data:`NORMS`.
    group
        The other ranks; None where there are none.
    calls
        Normalisations over the batch in a pass.
    seen
        What the last trial pass has left: ``(k, *shape)`` values by name.
    replayed
        Mean and variance of each normalisation of a pass, while such passes are compared.
    estimates
        Running statistics of prediction samples, in the place of those of the module.
    """

    def __init__(self) -> None:
        self.changing: dict[str, bool] = {}
        self.norm = "batch"
        self.group: Group | None = None
        self.calls = 0
        self.seen: dict[str, Tensor] = {}
        self.replayed: Replay | None = None
        self.estimates = Estimates()
        self._pending: dict[int, Left] = {}

    def keep(self, samples: Sequence[int], left: Mapping[str, Tensor], items: int) -> None:
        """Note what the passes of some samples have left; a repeated pass replaces the first.

        Parameters
        ----------
        left
            ``(k, *shape)`` by name, or ``(1, *shape)`` where it is the same for all of them.
        """
        for row, sample in enumerate(samples):
            values = {n: v[row if len(v) > 1 else 0].detach() for n, v in left.items()}
            self._pending[sample] = Left(values, items)

    @property
    def exchanges(self) -> bool:
        """Whether passes in training exchange statistics over a data group."""
        several = self.group is not None and self.group.size > 1
        return several and self.calls > 0

    @property
    def whole(self) -> bool:
        """Whether what a batch leaves or gives is that of no part of it."""
        return self.calls > 0 or any(self.changing.values())

    @property
    def pending(self) -> bool:
        """Whether passes have left something since the last step."""
        return bool(self._pending)

    def forget(self) -> None:
        """Let go of what passes have left."""
        self._pending.clear()
        self.estimates.forget()

    def advance(self, holders: Iterable[tuple[Put, Sequence[int] | None]]) -> None:
        """Bring together what the passes of a step have left. Collective over the replicas.

        Parameters
        ----------
        holders
            The modules, each with the samples that it is for; None for all.
        """
        pending, self._pending = self._pending, {}
        jobs = [
            _Mean(
                put,
                [(s, pending[s]) for s in sorted(pending) if of is None or s in of],
                0 if of is None else None,
            )
            for put, of in holders
        ]
        first = self.group is None or self.group.rank == 0
        parts = [part for job in jobs for part in job.parts(first)]
        if not parts:
            return
        flat = torch.cat(parts)
        if self.group is not None:
            self.group.sum_replicas_(flat)
        summed = iter(flat.split([len(part) for part in parts]))
        for job in jobs:
            job.take(summed)


class Replay:
    """Statistics of normalisations: noted in a pass, and used in passes with other items."""

    def __init__(self) -> None:
        self.noted: list[tuple[Tensor, Tensor]] = []
        self.again = False

    def at(self, call: int) -> tuple[Tensor, Tensor] | None:
        """Mean and variance to use in a call; None for those of the pass itself."""
        return self.noted[call] if self.again and call < len(self.noted) else None

    def note(self, mean: Tensor, variance: Tensor) -> None:
        """Note those of the next call."""
        if not self.again:
            self.noted.append((mean.detach(), variance.detach()))


class _Mean:
    """The mean of what passes have left of the state of one module, in float64.

    ``counting``: the sample whose integers are taken; None for that of a module with one sample.
    """

    def __init__(self, put: Put, left: Sequence[tuple[int, Left]], counting: int | None) -> None:
        self._left = left
        self._counts = bool(left) and counting in (None, left[0][0])
        names = sorted(left[0][1].values) if left else []
        self._held = {name: put.held(name) for name in names}

    def parts(self, first: bool) -> Iterable[Tensor]:
        """Sums over the samples of this rank: of weights, and of each value with how many kept
        their norm. ``first``: whether this is the first data group."""
        weights = [float(left.items) for _, left in self._left]
        if not weights:
            return
        device = next(iter(self._held.values())).device if self._held else None
        yield torch.tensor([sum(weights)], dtype=torch.float64, device=device)
        for name, held in self._held.items():
            values = [_flat(left.values[name]) for _, left in self._left]
            if not _is_real(held):
                yield values[0] if first and self._counts else torch.zeros_like(values[0])
                continue
            norm, norms = _flat(held).norm(), [v.norm() for v in values]
            pairs = list(zip(weights, norms, strict=True))
            kept = sum(w for w, n in pairs if abs(n - norm) <= SAME_NORM * norm)
            mean = float(sum(w * n for w, n in pairs))
            total = torch.zeros_like(values[0])
            for w, v in zip(weights, values, strict=True):
                total.add_(v, alpha=w)
            yield torch.cat([total, total.new_tensor([kept, mean])])

    def take(self, summed: Iterator[Tensor]) -> None:
        """Give the module the mean of all ranks."""
        if not self._left:
            return
        weight = float(next(summed))
        for held in self._held.values():
            found = next(summed)
            if _is_real(held):
                mean, kept, norm = found[:-2] / weight, float(found[-2]), found[-1] / weight
                if kept == weight and float(mean.norm()) > 0:
                    mean = mean * (norm / mean.norm())
                found = mean
            if held.is_complex():
                held.copy_(torch.view_as_complex(found.view(*held.shape, 2)))
            else:
                held.copy_(found.view(held.shape))


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _flat(x: Tensor) -> Tensor:
    return parts_of(x).detach().double().reshape(-1)
