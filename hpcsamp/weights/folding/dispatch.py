"""Dispatch operations that have a sampled parameter as an argument.

Such an operation has its own rule (:mod:`hpcsamp.weights.folding.rules`), works element by element,
or is vectorised over the samples by ``torch.func.vmap``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hpcsamp.weights.folding.fold import BatchRows, Fold
from hpcsamp.weights.folding.rules import RULES
from hpcsamp.weights.folding.rules.elementwise import elementwise, is_elementwise
from hpcsamp.weights.folding.sampled import Sampled
from hpcsamp.weights.strategies.chunk import NotPossibleError
from hpcsamp.weights.vectorised import vectorised


def dispatch(fold: Fold, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the result of a function for all samples: folded, or sampled if it has no items.

    Raises
    ------
    NotPossibleError
        If neither a rule nor vmap supports it; the message names the function.
    """
    rule = RULES.get(function)
    if rule is not None:
        found = rule(fold, *args, **kwargs)
        if found is not NotImplemented:
            return found
    if is_elementwise(function):
        return elementwise(fold, function, args, kwargs)
    return _vectorised(fold, function, args, kwargs)


def _vectorised(fold: Fold, function: Any, args: Any, kwargs: Any) -> Any:
    leaves, structure = tree_flatten((args, kwargs))
    values: list[Tensor] = []
    axes: list[int | None] = []
    places: list[int] = []
    batch: tuple[BatchRows, int, int] | None = None  # where, rows of a sample, number of axes
    for place, leaf in enumerate(leaves):
        if type(leaf) is Sampled:
            values.append(leaf.value)
            axes.append(0)
            places.append(place)
        elif isinstance(leaf, Tensor):
            rows = fold.rows(leaf)
            if rows is None:
                continue
            out = fold.out(leaf, rows)
            values.append(out if rows.folded else out[0])
            axes.append(0 if rows.folded else None)
            places.append(place)
            if batch is None:
                batch = rows, out.shape[rows.axis + 1], leaf.dim()

    def of_one(*parts: Tensor) -> Any:
        own = list(leaves)
        for place, part in zip(places, parts, strict=True):
            own[place] = part
        args, kwargs = tree_unflatten(own, structure)
        return function(*args, **kwargs)

    try:
        found = vectorised(of_one, tuple(axes), *values)
    except (RuntimeError, ValueError, TypeError) as e:
        name = getattr(function, "__name__", "an operation")
        line = (str(e).splitlines() or [""])[0][:120]
        raise NotPossibleError(f"{name} of sampled weights ({line})") from e
    return tree_map(lambda y: _result(fold, y, batch) if isinstance(y, Tensor) else y, found)


def _result(fold: Fold, y: Tensor, batch: tuple[BatchRows, int, int] | None) -> Any:
    """Return ``(k, ...)`` folded if it has items, otherwise as a sampled value."""
    if batch is None:
        return Sampled(y, fold)
    (axis, _), count, axes = batch
    shape = y.shape[1:]
    for place in dict.fromkeys((axis + len(shape) - axes, axis, *range(len(shape)))):
        if 0 <= place < len(shape) and shape[place] == count:
            return fold.into(y, place)
    return Sampled(y, fold)
