"""Common properties of prediction files and arrays: quantiles, type and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.sealing import text

#: Default quantiles of values.
QUANTILES = (0.05, 0.5, 0.95)


def levels_of(posterior: Posterior, asked: Sequence[float] | None) -> tuple[float, ...]:
    """Sorted levels of the quantiles to write; empty if there are no predictive quantiles.

    None requests :data:`QUANTILES`.

    Raises
    ------
    UsageError
        If levels are requested, but the targets are classes.
    """
    task = posterior.task
    if task.labels and asked:
        raise UsageError(
            f"quantiles at {', '.join(f'{level:g}' for level in asked)}: the targets are classes, "
            f"whose predictions are probabilities without quantiles; leave out the quantiles"
        )
    if task.labels or (not asked and not task.has_quantiles(posterior.likelihood)):
        return ()
    return tuple(sorted(set(QUANTILES if asked is None else asked)))


def precision(posterior: Posterior) -> str:
    """NumPy type of the written values."""
    return "<f8" if posterior.config.training.precision == "float64" else "<f4"


def attributes(facts: dict[str, Any], uid: str) -> dict[str, Any]:
    """Flatten nested facts to attributes of a file, which are numbers and text."""
    flat: dict[str, Any] = {}
    facts = dict(facts)
    while facts:
        name, value = next(iter(facts.items()))
        del facts[name]
        if isinstance(value, dict):
            facts = {f"{name}_{k}": v for k, v in value.items()} | facts
        else:
            flat[name] = value
    return {**flat, "dataset_uid": uid, "format": text.FORMAT}
