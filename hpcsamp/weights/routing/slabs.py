"""Draw random numbers for a part of a tensor: a model rank takes its part of the whole draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from hpcsamp.grid.parts import Part

_part: ContextVar[Part | None] = ContextVar("part of what is drawn for", default=None)


@contextmanager
def drawn_for(part: Part) -> Iterator[None]:
    """Context in which a module draws only a part ``(..., *local)`` of a tensor.

    The values are those that the unsplit network draws at these positions.
    """
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)


def whole(shape: Sequence[int]) -> Sequence[int]:
    """Return the shape of the whole draw, for a part of the given shape."""
    part = _part.get()
    return shape if part is None else part.whole_of(shape)


def cut(drawn: Any) -> Any:
    """Return this rank's part of the whole draw; axes of length 1 belong to all parts."""
    part = _part.get()
    if part is None:
        return drawn
    own = [
        slice(a, b) if n > 1 else slice(None)
        for (a, b), n in zip(part.box, drawn.shape[-len(part.box) :], strict=True)
    ]
    return drawn[(..., *own)]
