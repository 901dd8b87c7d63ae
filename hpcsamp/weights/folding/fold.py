"""Where samples are in a tensor, and how they get out of it and back into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """Where a tensor has the batch.

    Attributes
    ----------
    axis
        Which axis it is.
    folded
        Whether samples are folded into it, samples before items.
    """

    axis: int
    folded: bool


@dataclass(frozen=True, slots=True)
class Fold:
    """The sizes of a pass in which ``k`` samples of ``B`` items are folded.

    Attributes
    ----------
    samples, items
        ``k`` and ``B``.
    late
        Whether inputs come without samples, which come in at the first sampled parameter.
    dispatch
        What is asked for an operation that meets a sampled parameter: ``(fold, function, positional
        arguments, named arguments)``.
    """

    samples: int
    items: int
    late: bool
    dispatch: Callable[[Fold, Any, tuple[Any, ...], dict[str, Any]], Any]

    def rows(self, x: Tensor) -> Rows | None:
        """Where the batch is: in the first axis, in several rows for each item if need be, or in
        the second one; None for a tensor without items.

        This is judged by sizes. A coincidence leads to wrong shapes or outputs, which are noticed
        when the pass is compared with a loop, before it is used.
        """
        shape, items = x.shape, self.items
        both = self.samples * items
        if not shape:
            return None
        if shape[0] and shape[0] % both == 0:
            return Rows(0, True)
        if len(shape) > 1 and shape[1] == both:
            return Rows(1, True)
        if self.late:
            if shape[0] and shape[0] % items == 0:
                return Rows(0, False)
            if len(shape) > 1 and shape[1] == items:
                return Rows(1, False)
        return None

    def out(self, x: Tensor, rows: Rows) -> Tensor:
        """``(k, ...)``, samples in front; ``(1, ...)`` if there are none in the tensor."""
        if not rows.folded:
            return x[None]
        if rows.axis == 0:
            return x.unflatten(0, (self.samples, -1))
        return x.unflatten(rows.axis, (self.samples, -1)).movedim(rows.axis, 0)

    def into(self, y: Tensor, axis: int) -> Tensor:
        """``(k, ...)`` with the samples folded into an axis (counted without them)."""
        return y.flatten(0, 1) if axis == 0 else y.movedim(0, axis).flatten(axis, axis + 1)
