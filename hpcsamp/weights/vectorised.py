"""``torch.func.vmap`` that refuses to loop over an operation behind the caller's back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hpcsamp.weights.strategies.chunk import NotPossibleError


def vectorised(function: Callable[..., Any], axes: Any, *values: Any) -> Any:
    """``function`` of every sample, samples first.

    Parameters
    ----------
    function
        Of one sample.
    axes
        0 for each of ``values`` that has samples in its first axis, None for one that has none.
    values
        Tensors, or dictionaries of them.

    Raises
    ------
    NotPossibleError
        Naming the operation that vmap has no rule for.
    """
    with refused_loops():
        return torch.func.vmap(function, axes, randomness="error")(*values)


@contextmanager
def refused_loops() -> Iterator[None]:
    """Turn vmap's warning that it loops over an operation into an error that names it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*batching rule.*")
        try:
            yield
        except UserWarning as e:
            found = re.search(r"batching rule for (\S+?)\.? ", f"{e} ")
            name = found[1] if found else "an operation"
            raise NotPossibleError(f"torch.func.vmap would loop over {name}") from None
