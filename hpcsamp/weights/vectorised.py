"""``torch.func.vmap`` that raises an error instead of looping over an operation."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hpcsamp.weights.strategies.chunk import NotPossibleError


def vectorised(function: Callable[..., Any], axes: Any, *values: Any) -> Any:
    """Evaluate ``function`` for every sample; the first axis of results is that of samples.

    Parameters
    ----------
    function
        Function of one sample.
    axes
        0 for each of ``values`` with samples on its first axis, None for one without samples.
    values
        Tensors, or dictionaries of them.

    Raises
    ------
    NotPossibleError
        If vmap has no rule for an operation; the message names it.
    """
    with refused_loops():
        return torch.func.vmap(function, axes, randomness="error")(*values)


@contextmanager
def refused_loops() -> Iterator[None]:
    """Context that turns vmap's warning about looping over an operation into an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*batching rule.*")
        try:
            yield
        except UserWarning as e:
            found = re.search(r"batching rule for (\S+?)\.? ", f"{e} ")
            name = found[1] if found else "an operation"
            raise NotPossibleError(f"torch.func.vmap would loop over {name}") from None
