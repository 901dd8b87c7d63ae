"""Find the calls of batch normalisation over items, in trial passes with two and three items.

Weights may be normalised by the same function (weight standardisation), and a normalisation within
each item may have the items among its channels: such calls do not involve a batch and stay
unchanged. They are recognised by comparing the shapes of a call for two and for three items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcsamp.errors import UsageError


class Normalised(NamedTuple):
    """A call of batch normalisation.

    Attributes
    ----------
    over
        Whether values of several items are normalised together.
    axes
        Number of axes of its input.
    channels
        Number of channels of its input; None if the items are among them.
    """

    over: bool
    axes: int
    channels: int | None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether this may be a call with an input of the given shape."""
        return len(shape) == self.axes and self.channels in (None, shape[1])


def normalised(
    two: Sequence[tuple[Sequence[int], str]], three: Sequence[tuple[Sequence[int], str]]
) -> tuple[Normalised, ...]:
    """Return the calls of a pass from their shapes and layers for two and for three items.

    Raises
    ------
    UsageError
        If the number of calls depends on the items, or if a call has no single axis of items.
    """
    if len(two) != len(three):
        raise UsageError(
            f"the module normalises by batch_norm {len(two)} times for 2 items and {len(three)} "
            f"times for 3; the number of calls must not depend on the number of items"
        )
    return tuple(_call(a, b, layer) for (a, layer), (b, _) in zip(two, three, strict=True))


def _call(two: Sequence[int], three: Sequence[int], layer: str) -> Normalised:
    differ = [axis for axis, (a, b) in enumerate(zip(two, three, strict=False)) if a != b]
    if len(two) != len(three) or (1 in differ and len(differ) > 1):
        raise UsageError(
            f"{layer or 'the module'} normalises an input of shape {tuple(two)} for 2 items and of "
            f"shape {tuple(three)} for 3, in which no single axis counts the items"
        )
    return Normalised(bool(differ) and 1 not in differ, len(two), None if 1 in differ else two[1])
