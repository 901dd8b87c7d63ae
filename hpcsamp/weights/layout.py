"""Where named tensors lie in one flat vector: names, shapes, offsets and priors of variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from hpcsamp.weights.parts import parts_of


@dataclass(frozen=True, eq=False)
class Density:
    """A prior that is known by its log density alone.

    Attributes
    ----------
    name
        Of its kind, for messages.
    log_prob
        Log density in nats of the weights of a variable, ``(*shape)``, given their posterior mean
        ``(*shape)``, on which a hierarchical prior may depend; elementwise or their sum.
    """

    name: str
    log_prob: Callable[[Tensor, Tensor], Tensor]


Prior = tuple[float, float] | Density | None
"""Mean and logarithm of the standard deviation of a normal prior; None for a flat one."""

T = TypeVar("T")


@dataclass(frozen=True)
class Variable:
    """A trained tensor of a module.

    Attributes
    ----------
    name
        Qualified name in the module, e.g. ``encoder.0.weight``.
    shape
        Its shape; of a complex one with a last axis for real and imaginary part.
    prior
        Of each of its weights.
    random
        Whether it has uncertainty; what has none is optimised with the others and not drawn.
    offset
        Place of its first number in the flat vector; set by :class:`Layout`.
    pairs
        Whether it is complex.
    """

    name: str
    shape: torch.Size
    prior: Prior = None
    random: bool = True
    offset: int = 0
    pairs: bool = False

    @property
    def size(self) -> int:
        """Number of scalar weights."""
        return self.shape.numel()

    @property
    def place(self) -> slice:
        """Where it lies in the flat vector."""
        return slice(self.offset, self.offset + self.size)


class Layout:
    """Variables one after the other in a flat vector.

    Parameters
    ----------
    variables
        In their order, but complex ones first, so that their pairs lie at even places; their
        offsets are set here.
    rows
        Whether such vectors are the rows of a matrix: with a complex variable, one of odd length
        then ends with a number that is no variable's, so that every row has pairs at even places.

    Attributes
    ----------
    variables, names, shapes, sizes
        Of the variables.
    size
        Length of the flat vector.
    rest
        How many numbers at its end are no variable's.
    """

    def __init__(self, variables: Iterable[Variable], rows: bool = False) -> None:
        self.variables: list[Variable] = []
        self.size = 0
        for variable in sorted(variables, key=lambda v: not v.pairs):
            self.variables.append(replace(variable, offset=self.size))
            self.size += variable.size
        self.rest = self.size % 2 if rows and any(v.pairs for v in self.variables) else 0
        self.size += self.rest
        self.names = [v.name for v in self.variables]
        self.shapes = [v.shape for v in self.variables]
        self.sizes = [v.size for v in self.variables]

    def views(self, flat: Tensor) -> list[Tensor]:
        """The variables ``(..., *shape)`` as views of ``(..., n)`` numbers."""
        # split, not slices: its backward is one concatenation, that of k slices k full-size sums
        if self.rest:
            flat = flat[..., : self.size - self.rest]
        parts, lead = flat.split(self.sizes, dim=-1), flat.shape[:-1]
        return [part.view((*lead, *shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """The same by name."""
        return dict(zip(self.names, self.views(flat), strict=True))

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """``(n,)`` copy of the variables' values, which are given by name."""
        found = [parts_of(values[name].detach()).flatten() for name in self.names]
        return torch.cat([*found, found[0].new_zeros(self.rest)] if self.rest else found)

    def runs(self, kind: Callable[[Variable], T]) -> list[tuple[int, int, T]]:
        """Start, stop and kind of runs of neighbours of the same kind: for most modules one."""
        result = []
        for found, run in groupby(self.variables, kind):
            members = list(run)
            result.append((members[0].offset, members[-1].place.stop, found))
        return result
