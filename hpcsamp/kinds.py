"""Properties of the kinds of tasks that can be read without importing torch.

Ingest and reports look up the registered kinds here; the class of a user-defined kind is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.names import TASKS

#: Kinds whose targets are labels ``0 .. C - 1``; the targets of all others are numeric.
LABELS = frozenset({"classification", "multilabel", "segmentation", "ordinal"})

#: Figures of a report for each kind, by their names in :mod:`hpcsamp.report.build`.
PARTS: Mapping[str, tuple[str, ...]] = {
    "classification": ("reliability", "risk-coverage", "confusion", "uncertain-items"),
    "regression": ("coverage", "spread", "rows", "forecasts", "maps"),
    "multilabel": ("reliability", "by-label"),
    "segmentation": ("reliability", "confusion", "uncertain-maps"),
    "counts": ("coverage", "spread", "rows", "forecasts", "maps"),
    "ordinal": ("reliability", "risk-coverage", "confusion", "uncertain-items"),
    "several": (),  # each target has the figures of its own kind
}


def whole_numbers(y: np.ndarray, where: str) -> None:
    """Check that counts are whole numbers and not negative; the message begins with ``where``.

    Raises
    ------
    DataError
        If a value is invalid; the message names the first one.
    """
    known = y[~np.isnan(y)] if y.dtype.kind == "f" else y
    wrong = known[(known < 0) | (known != np.floor(known))]
    if wrong.size:
        raise DataError(f"{where} contains {wrong[0]:g}; counts must be whole numbers, 0 or more")


#: Checks of target values, for the kinds that restrict them.
VALUES: Mapping[str, Callable[[np.ndarray, str], None]] = {"counts": whole_numbers}


def parts_of(kind: str) -> tuple[str, ...]:
    """Return the names of the figures in a report on a task.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    if kind in PARTS:
        return PARTS[kind]
    parts: tuple[str, ...] = TASKS.find(kind).parts
    return parts


def has_labels(kind: str) -> bool:
    """Whether the targets of a task are labels, and not numeric.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    return kind in LABELS or (kind not in PARTS and bool(TASKS.find(kind).labels))


def check_values(kind: str, y: np.ndarray, where: str) -> None:
    """Check that target values are valid for a registered kind.

    Raises
    ------
    DataError
        If a value is invalid; the message begins with ``where`` and names the first one.
    """
    if kind in VALUES:
        VALUES[kind](y, where)
