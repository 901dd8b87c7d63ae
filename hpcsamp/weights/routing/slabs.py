"""Draws for a part of what they are for: a rank of the model axis takes its part of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from hpcsamp.grid.parts import Part

_part: ContextVar[Part | None] = ContextVar("part of what is drawn for", default=None)


@contextmanager
def drawn_for(part: Part) -> Iterator[None]:
    """Within the block a call of the module draws for ``(..., *local)`` of ``(..., *shape)``.

    Its numbers are those that the network in one piece draws there.
    """
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)


def whole(shape: Sequence[int]) -> Sequence[int]:
    """The shape to draw for a part of one of this shape."""
    part = _part.get()
    return shape if part is None else part.whole_of(shape)


def cut(drawn: Any) -> Any:
    """This rank's part of what was drawn for the whole; axes of length 1 are of all parts."""
    part = _part.get()
    if part is None:
        return drawn
    own = [
        slice(a, b) if n > 1 else slice(None)
        for (a, b), n in zip(part.box, drawn.shape[-len(part.box) :], strict=True)
    ]
    return drawn[(..., *own)]
