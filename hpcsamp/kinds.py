"""What readers of files need to know of a kind of task, without torch.

Ingest and reports look up the registered kinds here; the class of a user's own kind is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.names import TASKS

#: Kinds whose targets are labels ``0 .. C - 1``; those of the others are numbers.
LABELS = frozenset({"classification", "multilabel", "segmentation", "ordinal"})

#: Pictures of a report, by the names in :mod:`hpcsamp.report.build`.
PARTS: Mapping[str, tuple[str, ...]] = {
    "classification": ("reliability", "risk-coverage", "confusion", "uncertain-items"),
    "regression": ("coverage", "spread", "rows", "forecasts", "maps"),
    "multilabel": ("reliability", "by-label"),
    "segmentation": ("reliability", "confusion", "uncertain-maps"),
    "counts": ("coverage", "spread", "rows", "forecasts", "maps"),
    "ordinal": ("reliability", "risk-coverage", "confusion", "uncertain-items"),
    "several": (),  # those of each target
}


def whole_numbers(y: np.ndarray, where: str) -> None:
    """Refuse counts that are negative or have a fraction; ``where`` begins the message.

    Raises
    ------
    DataError
        With the first one.
    """
    known = y[~np.isnan(y)] if y.dtype.kind == "f" else y
    wrong = known[(known < 0) | (known != np.floor(known))]
    if wrong.size:
        raise DataError(f"{where} holds {wrong[0]:g}; counts are whole numbers from 0 on")


#: What values of a target must be, of the kinds that restrict them.
VALUES: Mapping[str, Callable[[np.ndarray, str], None]] = {"counts": whole_numbers}


def parts_of(kind: str) -> tuple[str, ...]:
    """Pictures of a report on a task.

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
    """Whether the targets of a task are labels, else numbers.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    return kind in LABELS or (kind not in PARTS and bool(TASKS.find(kind).labels))


def check_values(kind: str, y: np.ndarray, where: str) -> None:
    """Refuse values that a target of a registered kind does not have.

    Raises
    ------
    DataError
        With the first one, beginning with ``where``.
    """
    if kind in VALUES:
        VALUES[kind](y, where)
