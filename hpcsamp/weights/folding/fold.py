"""Find the axis of a tensor into which samples are folded, unfold it and fold it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class BatchRows(NamedTuple):
    """Position of the batch in a tensor.

    Attributes
    ----------
    axis
        Axis of the batch.
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
        Numbers ``k`` and ``B``.
    late
        Whether inputs have no samples, so that the first sampled parameter introduces them.
    dispatch
        Function that handles an operation on a sampled parameter, called with ``(fold, function,
        positional arguments, named arguments)``.
    """

    samples: int
    items: int
    late: bool
    dispatch: Callable[[Fold, Any, tuple[Any, ...], dict[str, Any]], Any]

    def rows(self, x: Tensor) -> BatchRows | None:
        """Return which axis of a tensor contains the batch, or None if it has no items.

        The batch is in the first axis, possibly with several rows for each item, or in the second.
        The axis is inferred from sizes. If another size equals that of the batch by coincidence,
        shapes or outputs are wrong; this is detected when the pass is compared with a loop over
        the samples, before it is used.
        """
        shape, items = x.shape, self.items
        both = self.samples * items
        if not shape:
            return None
        if shape[0] and shape[0] % both == 0:
            return BatchRows(0, True)
        if len(shape) > 1 and shape[1] == both:
            return BatchRows(1, True)
        if self.late:
            if shape[0] and shape[0] % items == 0:
                return BatchRows(0, False)
            if len(shape) > 1 and shape[1] == items:
                return BatchRows(1, False)
        return None

    def out(self, x: Tensor, rows: BatchRows) -> Tensor:
        """Return ``(k, ...)`` with samples first; ``(1, ...)`` if the tensor has no samples."""
        if not rows.folded:
            return x[None]
        if rows.axis == 0:
            return x.unflatten(0, (self.samples, -1))
        return x.unflatten(rows.axis, (self.samples, -1)).movedim(rows.axis, 0)

    def into(self, y: Tensor, axis: int) -> Tensor:
        """Fold the samples of ``(k, ...)`` into an axis (counted without that of the samples)."""
        return y.flatten(0, 1) if axis == 0 else y.movedim(0, axis).flatten(axis, axis + 1)
