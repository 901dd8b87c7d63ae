"""Layout of named tensors in one flat vector: names, shapes, offsets and priors of variables.

If a network is split over model ranks (:mod:`hpcsamp.grid.parts`), a rank's vector holds its parts
of the variables, one after the other, and the *whole* is the vector of the unsplit network. Noise
is identified by positions in the whole, and checkpoints hold the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from hpcsamp.grid.parts import Part
from hpcsamp.streams import Purpose
from hpcsamp.streams.noise import fill
from hpcsamp.weights.complex_parts import parts_of


@dataclass(frozen=True, eq=False)
class Density:
    """A prior that is known only by its log density.

    Attributes
    ----------
    name
        Name of the distribution, for messages.
    log_prob
        Log density in nats of the weights ``(*shape)`` of a variable, given their posterior mean
        ``(*shape)``, on which a hierarchical prior may depend; elementwise or their sum.
    """

    name: str
    log_prob: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Learned:
    """A normal prior of the weights of a layer whose variance is learnt.

    Attributes
    ----------
    layer
        Name of the layer, whose weights share one variance.
    mean
        Mean of the prior.
    """

    layer: str
    mean: float


Prior = tuple[float, float] | Learned | Density | None
"""Mean and log standard deviation of a normal prior; None for a flat prior."""

T = TypeVar("T")


@dataclass(frozen=True)
class Variable:
    """A trained tensor of a module.

    Attributes
    ----------
    name
        Qualified name in the module, e.g. ``encoder.0.weight``.
    shape
        Its shape; for a complex tensor, the last axis holds real and imaginary part.
    prior
        Prior of each of its weights.
    random
        Whether it has uncertainty; otherwise it is optimised like the others but not drawn.
    offset
        Index of its first element in the flat vector; set by :class:`Layout`.
    pairs
        Whether the tensor is complex.
    part
        The part of the whole tensor that this rank holds; None for all of it.
    """

    name: str
    shape: torch.Size
    prior: Prior = None
    random: bool = True
    offset: int = 0
    pairs: bool = False
    part: Part | None = None

    @property
    def size(self) -> int:
        """Number of scalar weights on this rank."""
        return self.shape.numel()

    @property
    def whole(self) -> int:
        """Number of scalar weights of the whole tensor."""
        return self.size if self.part is None else prod(self.part.shape)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Start and stop of the runs of the flattened whole that this rank holds, in order."""
        return [(0, self.size)] if self.part is None else self.part.runs()

    @property
    def place(self) -> slice:
        """Slice of the flat vector that holds it."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Bundle:
    """Neighbouring variables that are exchanged together.

    Attributes
    ----------
    variables
        The variables, in their order.
    stretches
        Start and stop, in the flat vector, of each section that is exchanged at once.
    """

    variables: list[Variable]
    stretches: list[tuple[int, int]]


class Layout:
    """Layout of variables one after the other in a flat vector.

    Parameters
    ----------
    variables
        The variables in order, except that complex ones come first, so that their pairs lie at even
        offsets; the offsets are set here.
    rows
        Whether such vectors are the rows of a matrix: with a complex variable, a row of odd length
        is then padded by one element, so that every row has its pairs at even offsets.

    Attributes
    ----------
    variables, names, shapes, sizes
        The variables, and their names, shapes and sizes.
    size, whole
        Length of the flat vector, and of that of the whole network.
    pieces
        Runs that are also contiguous in the whole: start, stop, and start in the whole. There is
        only one unless the network is split.
    rest
        Number of padding elements at its end.
    """

    def __init__(self, variables: Iterable[Variable], rows: bool = False) -> None:
        self.variables: list[Variable] = []
        self.size = self.whole = 0
        runs: list[tuple[int, int, int]] = []
        for variable in sorted(variables, key=lambda v: not v.pairs):
            self.variables.append(replace(variable, offset=self.size))
            for start, stop in variable.runs:
                runs.append((self.size, self.size + stop - start, self.whole + start))
                self.size += stop - start
            self.whole += variable.whole
        self.rest = self.size % 2 if rows and any(v.pairs for v in self.variables) else 0
        if self.rest:
            runs.append((self.size, self.size + self.rest, self.whole))
        self.size += self.rest
        self.whole += self.rest
        self.pieces = _joined(runs)
        self.names = [v.name for v in self.variables]
        self.shapes = [v.shape for v in self.variables]
        self.sizes = [v.size for v in self.variables]

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the variables ``(..., *shape)`` as views of a tensor ``(..., n)``."""
        # split instead of slices: its backward is one concatenation, not k sums of full size
        if self.rest:
            flat = flat[..., : self.size - self.rest]
        parts, lead = flat.split(self.sizes, dim=-1), flat.shape[:-1]
        return [part.view((*lead, *shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the variables by name, as views of a tensor ``(..., n)``."""
        return dict(zip(self.names, self.views(flat), strict=True))

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Copy the variables' values, given by name, into a tensor ``(n,)``."""
        found = [parts_of(values[name].detach()).flatten() for name in self.names]
        return torch.cat([*found, found[0].new_zeros(self.rest)] if self.rest else found)

    def draw(
        self,
        out: Tensor,
        seed: int,
        purpose: Purpose,
        step: int | Tensor,
        samples: Sequence[int],
        first: int = 0,
    ) -> Tensor:
        """Fill ``(k, m)`` with the noise of the elements ``first ... first + m - 1`` of the vector
        (:func:`hpcsamp.streams.noise.fill`).

        A part of a network gets the noise of its positions in the whole.
        """
        last = first + out.shape[1]
        for start, stop, place in self.pieces:
            lo, hi = max(start, first), min(stop, last)
            if lo < hi:
                own = out[:, lo - first : hi - first]
                fill(own, seed, purpose, step, samples, self.whole, place + lo - start)
        return out

    def bundles(self, size: int) -> list[Bundle]:
        """Bundles of variables in order, each of at most ``size`` values; a larger variable is its
        own bundle, in several sections.
        """
        found: list[Bundle] = []
        for v in self.variables:
            last = found[-1] if found else None
            if last is not None and v.place.stop - last.variables[0].offset <= size:
                last.variables.append(v)
                last.stretches[:] = [(last.stretches[0][0], v.place.stop)]
                continue
            cuts = [*range(v.offset, v.place.stop, size), v.place.stop]
            found.append(Bundle([v], list(pairwise(cuts))))
        if self.rest:
            start, _ = found[-1].stretches[-1]
            found[-1].stretches[-1] = (start, self.size)
        return found

    def whole_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole tensor, given the shape ``(..., size)`` of this rank's part."""
        return (*shape[:-1], self.whole)

    def local_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of this rank's part of a tensor ``(..., whole)``."""
        return (*shape[:-1], self.size)

    def put(self, whole: Tensor, flat: Tensor) -> None:
        """Write values ``(..., size)`` of this layout to their positions in ``(..., whole)``."""
        for start, stop, place in self.pieces:
            whole[..., place : place + stop - start] = flat[..., start:stop]

    def cut(self, whole: Tensor) -> Tensor:
        """Copy the values ``(..., size)`` of this layout from ``(..., whole)``."""
        return torch.cat([whole[..., at : at + b - a] for a, b, at in self.pieces], dim=-1)

    def runs(self, kind: Callable[[Variable], T]) -> list[tuple[int, int, T]]:
        """Start, stop and kind of each run of neighbouring variables of the same kind."""
        result = []
        for found, run in groupby(self.variables, kind):
            members = list(run)
            result.append((members[0].offset, members[-1].place.stop, found))
        return result


def _joined(runs: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join runs that continue where the previous one ends."""
    found: list[tuple[int, int, int]] = []
    for start, stop, place in runs:
        if found and found[-1][2] + found[-1][1] - found[-1][0] == place:
            found[-1] = (found[-1][0], stop, found[-1][2])
        elif stop > start:
            found.append((start, stop, place))
    return found
