"""A chunk of samples to evaluate: weights, inputs, and the module that uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put


class NotPossibleError(Exception):
    """Error raised if a strategy does not support a module; the message names the operation."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``k`` samples of a module.

    Attributes
    ----------
    put
        Puts values into the module.
    call
        Evaluates the module with its current values, from ``(B, ...)`` inputs to ``(B, ...)``
        outputs.
    sampled
        ``(k, *shape)`` values by name, one for each sample.
    shared
        ``shape`` values by name, the same for all samples.
    x
        ``(B, ...)`` inputs, or ``(k, B, ...)`` if ``stacked``.
    samples
        ``k``.
    stacked
        Whether each sample has its own inputs.
    place
        Place of the pass; None if the module's own random numbers do not matter.
    plan
        The module's own draws (:mod:`hpcsamp.weights.routing`); None if nothing is routed.
    """

    put: Put
    call: Callable[[Tensor], Tensor]
    sampled: Mapping[str, Tensor]
    shared: Mapping[str, Any]
    x: Tensor
    samples: int
    stacked: bool
    place: Place | None = None
    plan: Any = None

    @property
    def items(self) -> int:
        """Number of items, ``B``."""
        return self.x.shape[1] if self.stacked else self.x.shape[0]

    def some(self, rows: Sequence[int]) -> Chunk:
        """Return a chunk of some of the samples."""
        at = list(rows)
        return replace(
            self,
            sampled={name: value[at] for name, value in self.sampled.items()},
            x=self.x[at] if self.stacked else self.x,
            samples=len(at),
            place=None if self.place is None else self.place.some(at),
        )
