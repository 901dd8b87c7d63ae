"""State that a module advances in its forward passes: once per step, the same on any grid.

Every pass of a step starts from the state that the module had before the step. When the step is
over, the states left by the passes of all samples and data groups are combined:

    floats       the mean over samples, and over items of the data groups; a value whose norm stayed
                 the same in every pass (the vectors of a power iteration) keeps this norm
    integers     the value left by the pass of the first sample in the first data group

If each sample has its own module (members, chains), the mean is over its own passes. Running
statistics of batch normalisation are such values; :mod:`hpcsamp.weights.routing.normalisation`
computes what their passes leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpcsamp.weights.complex_parts import parts_of
from hpcsamp.weights.data_group import DataGroupLike
from hpcsamp.weights.estimates import Estimates
from hpcsamp.weights.put import Put

NORMS = ("batch", "frozen", "group")
"""Normalisation by the whole batch of a step, by running statistics, or over groups of channels."""

#: Relative difference of norms that count as equal: initial vectors may be less precise.
SAME_NORM = 1e-5


class Left(NamedTuple):
    """The state left by the pass of a sample.

    Attributes
    ----------
    values
        Values by name.
    items
        Number of items of the pass.
    """

    values: Mapping[str, Tensor]
    items: int


class State:
    """State that a method's modules keep between passes.

    Attributes
    ----------
    changing
        Names of the buffers that passes in training change, as far as observed, and whether they
        hold floating-point values rather than integers.
    norm
        Statistics that batch normalisation uses in training, one of :data:`NORMS`.
    group
        The data group; None if there are no other ranks.
    calls
        Number of normalisations over the batch in a pass.
    seen
        State left by the last trial pass: ``(k, *shape)`` values by name.
    replayed
        Mean and variance of each normalisation of a pass, while passes are compared.
    estimates
        Running statistics of prediction samples, used instead of those of the module.
    """

    def __init__(self) -> None:
        self.changing: dict[str, bool] = {}
        self.norm = "batch"
        self.group: DataGroupLike | None = None
        self.calls = 0
        self.seen: dict[str, Tensor] = {}
        self.replayed: Replay | None = None
        self.estimates = Estimates()
        self._pending: dict[int, Left] = {}

    def keep(self, samples: Sequence[int], left: Mapping[str, Tensor], items: int) -> None:
        """Store the state left by passes of some samples; a repeated pass replaces the first.

        Parameters
        ----------
        left
            ``(k, *shape)`` by name, or ``(1, *shape)`` if the state is the same for all samples.
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
        """Whether outputs or state depend on the whole batch, so that it cannot be split."""
        return self.calls > 0 or any(self.changing.values())

    @property
    def pending(self) -> bool:
        """Whether passes have left state since the last step."""
        return bool(self._pending)

    def forget(self) -> None:
        """Forget the state left by passes."""
        self._pending.clear()
        self.estimates.forget()

    def advance(self, holders: Iterable[tuple[Put, Sequence[int] | None]]) -> None:
        """Combine the states left by the passes of a step. Collective over the replicas.

        Parameters
        ----------
        holders
            The modules, each with the samples it evaluates; None for all samples.
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
    """Statistics of normalisations, recorded in one pass and reused in passes with other items."""

    def __init__(self) -> None:
        self.noted: list[tuple[Tensor, Tensor]] = []
        self.again = False

    def at(self, call: int) -> tuple[Tensor, Tensor] | None:
        """Mean and variance to use in a call; None to use those of the pass itself."""
        return self.noted[call] if self.again and call < len(self.noted) else None

    def note(self, mean: Tensor, variance: Tensor) -> None:
        """Record the statistics of the next call."""
        if not self.again:
            self.noted.append((mean.detach(), variance.detach()))


class _Mean:
    """Mean of the states that passes have left for one module, in float64.

    ``counting``: the sample whose integers are used; None for a module with one sample.
    """

    def __init__(self, put: Put, left: Sequence[tuple[int, Left]], counting: int | None) -> None:
        self._left = left
        self._counts = bool(left) and counting in (None, left[0][0])
        names = sorted(left[0][1].values) if left else []
        self._held = {name: put.held(name) for name in names}

    def parts(self, first: bool) -> Iterable[Tensor]:
        """Weighted sums over the samples of this rank, from which :meth:`take` computes means.

        These are the sum of the weights, and for each value its sum, the weight of the passes that
        kept its norm, and the sum of norms. ``first``: whether this is the first data group.
        """
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
        """Set the module's state to the mean over all ranks."""
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
