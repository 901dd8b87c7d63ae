"""Flat weights that are sharded over the ranks of a sample group.

    gathered     before a pass: means and standard deviations, section by section, the next section
                 being sent while the current one is drawn; the (k, n) weights of a chunk of k
                 samples are kept until its backward pass is over
    scattered    in the backward pass: the gradients of a bundle of variables as soon as they are
                 complete, from the last variable to the first, to the ranks that hold them

Every rank of the group takes part in each exchange, even if it has no samples in a round: a step
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

#: Number of elements of a vector that are exchanged at once.
STRETCH = 1 << 20

Drawing = Callable[[range], Drawn]
"""Function that draws a chunk of samples."""


class SampleGroupLike(Protocol):
    """The ranks that hold shares of the same weights."""

    size: int
    rank: int

    def begin_gather(self, own: Tensor, counts: Sequence[int]) -> Callable[[], Tensor]:
        """Start to concatenate ``(counts[r],)`` values of each rank r; return a wait function."""

    def scatter_sum(self, whole: Tensor, counts: Sequence[int]) -> Tensor:
        """Sum over the ranks; rank r receives a part of ``counts[r]`` elements of the sum."""

    def largest(self, number: int) -> int:
        """Return the largest value of a number over the ranks."""

    def copy_first_(self, x: Tensor) -> None:
        """Overwrite a tensor with that of the first rank among those that hold the same network."""


class Drawer(Protocol):
    """Draws weights, and sums their gradients."""

    def draw(self, step: int, samples: range) -> Drawn:
        """Draw the weights of a chunk. Collective over the group."""


class SharedVector:
    """A flat vector of ``size`` elements that is split into shares over the ranks of a group."""

    def __init__(self, group: SampleGroupLike, size: int) -> None:
        self._group, self.size = group, size
        self.own = share(size, group.size, group.rank)

    def cut(self, whole: Tensor) -> Tensor:
        """Return a copy of this rank's share."""
        return whole[self.own.start : self.own.stop].clone()

    def _counts(self, start: int, stop: int) -> list[int]:
        """Number of elements of a section on each rank."""
        shares = (share(self.size, self._group.size, r) for r in range(self._group.size))
        return [max(0, min(stop, s.stop) - max(start, s.start)) for s in shares]

    def within(self, start: int, stop: int) -> slice:
        """Slice of this rank's share that lies in a section."""
        first, last = max(start, self.own.start), min(stop, self.own.stop)
        return slice(first - self.own.start, max(first, last) - self.own.start)

    def begin(
        self, own: Tensor, start: int, stop: int, change: Callable[[Tensor], Tensor] | None = None
    ) -> Callable[[], Tensor]:
        """Start to gather a section; each rank may first change its part. Collective."""
        part, counts = own[self.within(start, stop)], self._counts(start, stop)
        return self._group.begin_gather(part if change is None else change(part), counts)

    def scatter(self, whole: Tensor, start: int, into: Tensor) -> None:
        """Add the sum over the ranks of a section to the shares. Collective."""
        stop = start + len(whole)
        part = self._group.scatter_sum(whole, self._counts(start, stop))
        into[self.within(start, stop)] += part


class Sharing:
    """The shares of a method's vectors, and draws of samples from them.

    Parameters
    ----------
    group
        The ranks that hold the shares.
    random, fixed
        Layouts of the ``(n,)`` means and log standard deviations, and of deterministic parameters.
    means
        ``(n,)`` and ``(m,)`` initial values, whose moments :attr:`made_up` reproduces.
    noise
        Function that draws noise.
    names
        Names of the method's parameters that are sharded.

    Attributes
    ----------
    vector, fixed_vector
        The sharded vectors.
    placement
        Placement of the shares, for states.
    accumulator
        The accumulator that currently sums gradients, or None.
    made_up
        Made-up weights for passes that only probe the module.
    """

    def __init__(
        self,
        group: SampleGroupLike,
        random: Layout,
        fixed: Layout,
        means: tuple[Tensor, Tensor | None],
        noise: Noise,
        names: Sequence[str],
    ) -> None:
        self.group, self.random, self.fixed, self.noise = group, random, fixed, noise
        self.vector, self.fixed_vector = (
            SharedVector(group, random.size),
            SharedVector(group, fixed.size),
        )
        self.placement = Shares(Shard(group.rank, group.size), tuple(names))
        self.bundles = random.bundles(STRETCH)
        self.accumulator: Drawer | None = None
        self.made_up = MadeUp(random, fixed, means, noise)

    # Draws -------------------------------------------------------------------------------------

    def drawn(self, mean: Tensor, log_std: Tensor, step: int, samples: range) -> Tensor:
        """Return ``(k, n)`` weights of some samples, without gradient. Collective over the group.

        Parameters
        ----------
        mean, log_std
            This rank's shares.
        """
        weights = mean.new_empty(len(samples), self.random.size)
        stretches = [s for bundle in self.bundles for s in bundle.stretches]
        # of the standard deviations, only the section being sent is ever in memory
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
        """Return all ``(m,)`` deterministic parameters. Collective over the group."""
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
        """Iterate over functions that draw ``count`` chunks; then join the draws of other ranks.

        Collective. While gradients are summed, :meth:`Accumulator.skip` joins them instead.
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
