"""Class labels: recognise them among numbers and words, and find which classes occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcsamp.data.shard import check_labels, check_values
from hpcsamp.errors import DataError
from hpcsamp.names import Task
from hpcsamp.spelling import joined

MANY = 1000
"""Number of classes above which more than half of the classes must occur."""

GUESSED = 50
"""Largest number of different whole numbers for which ``y`` is taken as labels by default."""

LABELLED = ("classification", "ordinal")
"""Tasks whose targets are one class for each item."""

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]


def check_numbers(values: np.ndarray, where: str) -> None:
    """Refuse arrays that are not numeric.

    Raises
    ------
    DataError
        If the type is not numeric; the message begins with ``where``.
    """
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {values.dtype}, but numbers are needed")


def guess(file: str, pairs: Pairs) -> Task:
    """Guess the task from the type and the shape of ``y``.

    Raises
    ------
    DataError
        If they are ambiguous.
    """
    y = pairs["train"][1]
    if y.dtype.kind not in "biu":
        return "regression"
    if y.ndim == 2 and y.shape[1] == 1:
        raise DataError(
            f"{file}: y has whole numbers of shape {y.shape}: labels or amounts? "
            "Give --task classification or --task regression"
        )
    if y.ndim != 1:
        return "regression"
    different = len(np.unique(y))
    if different > GUESSED and different > len(y) / 10:
        raise DataError(
            f"{file}: y has {different} different whole numbers in {len(y)} items: labels or "
            "amounts? Give --task classification or --task regression"
        )
    return "classification"


def labels_of(y: np.ndarray, where: str) -> np.ndarray:
    """Return labels of shape ``(n,)``.

    Raises
    ------
    DataError
        If values are not whole numbers, or the shape does not fit.
    """
    check_numbers(y, where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{where}: labels must have shape (n,), not {y.shape}")
    check_values(y, where)
    broken = y != np.floor(y) if y.dtype.kind == "f" else np.zeros(len(y), bool)
    if broken.any():
        at = int(np.flatnonzero(broken)[0])
        raise DataError(
            f"{where}: {y[at]} at position {at} is not a label; labels are whole numbers"
        )
    return y


def classes_of(file: str, labels: Mapping[str, np.ndarray]) -> tuple[int, list[str]]:
    """Return the number of classes, and notes about them for the user.

    Raises
    ------
    DataError
        If labels are negative, or there are many classes of which most do not occur.
    """
    top = max(int(y.max()) for y in labels.values())
    classes = max(2, top + 1)
    used = np.unique(np.concatenate([np.unique(y).astype(np.float64) for y in labels.values()]))
    for split, y in labels.items():
        check_labels(y, classes, f"{file}: y of {split}")
    if classes > MANY and classes > 2 * len(used):
        raise DataError(
            f"{file}: labels go up to {top}, but only {len(used)} of {classes} classes occur; "
            "number the classes from 0, or give --task regression"
        )
    unused = sorted(set(range(classes)) - {int(u) for u in used})
    if not unused:
        return classes, []
    return classes, [f"{len(unused)} of {classes} classes do not occur: {_some(unused)}"]


def unseen(labels: Mapping[str, np.ndarray]) -> list[str]:
    """Return notes about classes of other splits that train does not have."""
    known = set(np.unique(labels["train"]).tolist())
    found = []
    for split, y in labels.items():
        extra = sorted(set(np.unique(y).tolist()) - known)
        if extra:
            found.append(f"classes of {split} that train does not have: {_some(extra)}")
    return found


def _some(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return ", ".join(map(str, numbers[:10])) + more


@dataclass(frozen=True)
class ItemTargets:
    """Targets of items, with their task and classes.

    Attributes
    ----------
    values
        Shape ``(n,)`` for one column, ``(n, columns)`` for several.
    task, classes, class_names
        See :class:`~hpcsamp.data.manifest.Manifest`.
    names
        Names of the columns.
    notes
        Lines for the user.
    """

    values: np.ndarray
    task: Task
    classes: int | None = None
    class_names: list[str] | None = None
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def targets_of(
    columns: Mapping[str, np.ndarray],
    task: Task | None,
    where: str,
    class_names: Sequence[str] | None = None,
) -> ItemTargets:
    """Convert columns of numbers or words to targets.

    Parameters
    ----------
    columns
        Numbers, or words in arrays of objects, each of shape ``(n,)``.
    task
        Task; by default it follows from the types: words and whole numbers with few different
        values are classes, several columns of 0 and 1 are multilabel.
    where
        Beginning of messages.
    class_names
        Names of the classes in order, if known; words are numbered in this order.

    Raises
    ------
    DataError
        If the values of a column do not fit the task.
    """
    kind = task
    names = list(columns)
    arrays = list(columns.values())
    text = [name for name, values in columns.items() if values.dtype.kind in "OSU"]
    if text and (len(columns) > 1 or kind not in (None, *LABELLED)):
        shown = next(v for v in columns[text[0]].tolist() if v is not None)
        raise DataError(
            f"{where}: column {text[0]!r} has text ({shown!r}), but "
            f"{task or 'a task with several columns'} needs numbers"
        )
    if text:
        if kind == "ordinal" and class_names is None:
            raise DataError(
                f"{where}: the order of the words in column {text[0]!r} is unknown; give "
                "--class-name for each, the lowest class first"
            )
        codes, words = numbered(columns[text[0]], class_names, f"{where}: column {text[0]!r}")
        return ItemTargets(codes, kind or "classification", len(words), words, names)
    y = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)
    if kind == "multilabel" or (kind is None and len(arrays) > 1 and are_flags(arrays)):
        for name, values in columns.items():
            if not are_flags([values]):
                raise DataError(f"{where}: column {name!r} has values other than 0 and 1, the "
                                "labels of multilabel targets")  # fmt: skip
        flags = np.stack(arrays, axis=1).astype("<i8")
        return ItemTargets(flags, "multilabel", 2, None, names)
    kind = kind or guess(where, {"train": (y, y)})
    if kind in LABELLED:
        y = labels_of(y, f"{where}: y")
        classes, notes = classes_of(where, {"train": y})
        if class_names is not None:
            check_labels(y, len(class_names), f"{where}: y")
            classes = len(class_names)
        known = None if class_names is None else [*class_names]
        return ItemTargets(y.astype("<i8"), kind, classes, known, names, notes)
    check_numbers(y, f"{where}: y")
    return ItemTargets(y if y.dtype.kind == "f" else y.astype("<f8"), kind, names=names)


def are_flags(columns: Sequence[np.ndarray]) -> bool:
    """Whether columns have no values but 0 and 1."""
    return all(
        values.dtype.kind in "biuf" and bool(np.isin(values, (0, 1)).all()) for values in columns
    )


def numbered(
    words: np.ndarray, names: Sequence[str] | None, where: str
) -> tuple[np.ndarray, list[str]]:
    """Number words from 0, sorted or in the given order; return the numbers and the words.

    Raises
    ------
    DataError
        If a word is missing or is not one of the given words, or there is only one.
    """
    lacking = [i for i, word in enumerate(words.tolist()) if word is None]
    if lacking:
        raise DataError(f"{where}: item {lacking[0]} has no value")
    found, inverse = np.unique(words.astype(str), return_inverse=True)
    if names is None:
        if len(found) < 2:
            raise DataError(
                f"{where}: all items are {str(found[0])!r}, but at least 2 classes are needed"
            )
        return inverse.astype("<i8"), [str(word) for word in found.tolist()]
    place = {name: i for i, name in enumerate(names)}
    unknown = [word for word in found.tolist() if word not in place]
    if unknown:
        known = joined(list(place)[:20]) + (f" and {len(place) - 20} more") * (len(place) > 20)
        raise DataError(f"{where}: {unknown[0]!r} is not one of {known}")
    return np.asarray([place[word] for word in found.tolist()], "<i8")[inverse], list(names)
