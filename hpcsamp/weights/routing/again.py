"""Let a pass draw the same random numbers again, for a network that is applied several times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from hpcsamp.weights.routing.now import Now, Route

_MARK = torch.zeros(())


def draw_again() -> None:
    """Let the next calls of the current pass draw what its first calls have drawn.

    Without routed calls it does nothing.
    """
    _from_the_first(_MARK)


def _from_the_first(mark: Tensor) -> Any:
    if has_torch_function((mark,)):
        return handle_torch_function(_from_the_first, (mark,), mark)
    return mark


def _route(now: Now, mark: Tensor) -> Any:
    now.calls = now.masked = now.normalising = now.normalised = 0
    return NotImplemented  # a pass without draws needs no routes for it


ROUTES: dict[Any, Route] = {_from_the_first: _route}
