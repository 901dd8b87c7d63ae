"""Flat weights of which the ranks of a sample group hold a share each.

    gathered     before a pass: means and standard deviations, stretch by stretch, the next one on
                 its way while the present one is drawn; of a chunk of k samples (k, n) weights live
                 until its backward pass is over
    scattered    in the backward pass: the gradients of a bundle of variables as soon as they are
                 there, from the last variable to the first, to the ranks that hold them

Every rank of the group takes part in each exchange, also where it has no samples in a round: a step
has 2 ceil(S / (P k)) gathers, and as many reductions. They are in the same order on all ranks,
whatever the order in which autograd finishes. (ZeRO stage 3; Rajbhandari et al. 2020.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from hpcsamp.grid import share
from hpcsamp.grid.placement import Shard, Shares
from hpcsamp.methods.made_up import Drawn, MadeUp, Noise
from hpcsamp.weights import Layout

#: Numbers of a vector that are exchanged at once.
STRETCH = 1 << 20

Drawing = Callable[[range], Drawn]
"""Draws a chunk of samples."""


class SampleGroup(Protocol):
    """The ranks that hold shares of the same weights."""

    size: int
    rank: int

    def begin_gather(self, own: Tensor, counts: Sequence[int]) -> Callable[[], Tensor]:
        """Begin to concatenate ``(counts[r],)`` numbers of each rank; what waits for them."""

    def scatter_sum(self, whole: Tensor, counts: Sequence[int]) -> Tensor:
        """The sum over the ranks, of which the r-th gets ``counts[r]`` numbers."""

    def largest(self, number: int) -> int:
        """The largest of a number over the ranks."""

    def copy_first_(self, x: Tensor) -> None:
        """Overwrite a tensor by that of the first rank of all that hold the same network."""


class Drawer(Protocol):
    """What draws weights whose gradients it sums."""

    def draw(self, step: int, samples: range) -> Drawn:
        """Weights of a chunk. Collective over the group."""


class Vector:
    """A flat vector of ``size`` numbers, of which each rank of a group holds a share."""

    def __init__(self, group: SampleGroup, size: int) -> None:
        self._group, self.size = group, size
        self.own = share(size, group.size, group.rank)

    def cut(self, whole: Tensor) -> Tensor:
        """This rank's share; a copy."""
        return whole[self.own.start : self.own.stop].clone()

    def _counts(self, start: int, stop: int) -> list[int]:
        """How much of a stretch lies on each rank."""
        shares = (share(self.size, self._group.size, r) for r in range(self._group.size))
        return [max(0, min(stop, s.stop) - max(start, s.start)) for s in shares]

    def within(self, start: int, stop: int) -> slice:
        """Where in its own share a rank has what it has of a stretch."""
        first, last = max(start, self.own.start), min(stop, self.own.stop)
        return slice(first - self.own.start, max(first, last) - self.own.start)

    def begin(
        self, own: Tensor, start: int, stop: int, change: Callable[[Tensor], Tensor] | None = None
    ) -> Callable[[], Tensor]:
        """Begin to gather a stretch, whose numbers ranks may change first. Collective."""
        mine, counts = own[self.within(start, stop)], self._counts(start, stop)
        return self._group.begin_gather(mine if change is None else change(mine), counts)

    def scatter(self, whole: Tensor, start: int, into: Tensor) -> None:
        """Add the sum over the ranks of a stretch to the shares. Collective."""
        stop = start + len(whole)
        mine = self._group.scatter_sum(whole, self._counts(start, stop))
        into[self.within(start, stop)] += mine


class Sharing:
    """The shares of a method's vectors, and how samples are drawn of them.

    Parameters
    ----------
    group
        The ranks.
    random, fixed
        Layouts of ``(n,)`` means and log standard deviations, and of what has no uncertainty.
    means
        ``(n,)`` and ``(m,)``, the initial ones; what :attr:`made_up` resembles.
    noise
        Draws noise.
    names
        Of the method's parameters that are in shares.

    Attributes
    ----------
    vector, fixed_vector
        Where the shares lie.
    placement
        The same for states.
    accumulator
        What sums gradients now, or None.
    made_up
        Draws for passes that only find something out.
    """

    def __init__(
        self,
        group: SampleGroup,
        random: Layout,
        fixed: Layout,
        means: tuple[Tensor, Tensor | None],
        noise: Noise,
        names: Sequence[str],
    ) -> None:
        self.group, self.random, self.fixed, self.noise = group, random, fixed, noise
        self.vector, self.fixed_vector = Vector(group, random.size), Vector(group, fixed.size)
        self.placement = Shares(Shard(group.rank, group.size), tuple(names))
        self.bundles = random.bundles(STRETCH)
        self.accumulator: Drawer | None = None
        self.made_up = MadeUp(random, fixed, means, noise)

    # Draws -------------------------------------------------------------------------------------

    def drawn(self, mean: Tensor, log_std: Tensor, step: int, samples: range) -> Tensor:
        """``(k, n)`` weights of some samples, without gradient. Collective over the group.

        Parameters
        ----------
        mean, log_std
            This rank's shares.
        """
        weights = mean.new_empty(len(samples), self.random.size)
        stretches = [s for bundle in self.bundles for s in bundle.stretches]
        # of standard deviations there is never more than what is on its way
        begin = self.vector.begin
        coming = [begin(mean, *stretches[0]), begin(log_std, *stretches[0], torch.exp)]
        for i, (start, stop) in enumerate(stretches):
            there = coming
            if i + 1 < len(stretches):
                after = stretches[i + 1]
                coming = [begin(mean, *after), begin(log_std, *after, torch.exp)]
            centre, width = (found() for found in there)
            if samples:
                out = self.noise(
                    weights.new_empty(len(samples), stop - start), step, samples, start
                )
                torch.addcmul(centre, width, out, out=weights[:, start:stop])
        return weights

    def whole_fixed(self, own: Tensor | None) -> Tensor | None:
        """``(m,)`` all of what has no uncertainty. Collective over the group."""
        if own is None:
            return None
        cuts = [*range(0, self.fixed.size, STRETCH), self.fixed.size]
        whole = own.new_empty(self.fixed.size)
        for start, stop in pairwise(cuts):
            whole[start:stop] = self.fixed_vector.begin(own, start, stop)()
        return whole

    def draws(
        self, mean: Tensor, log_std: Tensor, fixed: Tensor | None, step: int, count: int
    ) -> Iterator[Drawing]:
        """What draws ``count`` chunks, and takes part when other ranks have more. Collective.

        Where gradients are summed, :meth:`Accumulator.skip` does the latter.
        """
        if self.accumulator is not None:
            yield partial(self.accumulator.draw, step)
            return
        own, log_std = mean.detach(), log_std.detach()
        more = self.group.largest(count) - count
        whole = self.whole_fixed(None if fixed is None else fixed.detach())
        shared = {} if whole is None else self.fixed.named(whole)
        yield lambda chunk: (self.random.named(self.drawn(own, log_std, step, chunk)), shared)
        for _ in range(more):
            self.drawn(own, log_std, step, range(0))
