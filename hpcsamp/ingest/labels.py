"""Labels: what numbers or words are classes, and which of them occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcsamp.data.shard import check_labels, check_values
from hpcsamp.errors import DataError
from hpcsamp.names import Task

MANY = 1000
"""Classes from which on more than half of them must occur."""

GUESSED = 50
"""Different whole numbers up to which ``y`` is taken as labels without a word from the user."""

LABELLED = ("classification", "ordinal")
"""Tasks whose targets are one class an item."""

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]


def check_numbers(values: np.ndarray, where: str) -> None:
    """Refuse what is no number.

    Raises
    ------
    DataError
        Beginning with ``where``, with the type.
    """
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where} has type {values.dtype}; numbers are needed")


def guess(file: str, pairs: Pairs) -> Task:
    """What ``y`` is, where its type and shape leave no doubt.

    Raises
    ------
    DataError
        If they leave it open.
    """
    y = pairs["train"][1]
    if y.dtype.kind not in "biu":
        return "regression"
    if y.ndim == 2 and y.shape[1] == 1:
        raise DataError(
            f"{file}: y holds whole numbers of shape {y.shape}: labels or amounts? "
            "Give --task classification or --task regression"
        )
    if y.ndim != 1:
        return "regression"
    different = len(np.unique(y))
    if different > GUESSED and different > len(y) / 10:
        raise DataError(
            f"{file}: y holds {different} different whole numbers in {len(y)} items: labels or "
            "amounts? Give --task classification or --task regression"
        )
    return "classification"


def labels_of(y: np.ndarray, where: str) -> np.ndarray:
    """Labels of shape ``(n,)``.

    Raises
    ------
    DataError
        If values are no whole numbers.
    """
    check_numbers(y, where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{where}: labels of shape (n,) are needed, not {y.shape}")
    check_values(y, where)
    broken = y != np.floor(y) if y.dtype.kind == "f" else np.zeros(len(y), bool)
    if broken.any():
        at = int(np.flatnonzero(broken)[0])
        raise DataError(f"{where}: {y[at]} at position {at} is no label; whole numbers are needed")
    return y


def classes_of(file: str, labels: Mapping[str, np.ndarray]) -> tuple[int, list[str]]:
    """Number of classes, and notes on them for the user.

    Raises
    ------
    DataError
        If labels are negative, or most of many classes occur nowhere.
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
    return classes, [f"{len(unused)} of {classes} classes occur nowhere: {_some(unused)}"]


def unseen(labels: Mapping[str, np.ndarray]) -> list[str]:
    """Classes that training never sees."""
    known = set(np.unique(labels["train"]).tolist())
    found = []
    for split, y in labels.items():
        strange = sorted(set(np.unique(y).tolist()) - known)
        if strange:
            found.append(f"classes of {split} that train does not have: {_some(strange)}")
    return found


def _some(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return ", ".join(map(str, numbers[:10])) + more


@dataclass(frozen=True)
class Targets:
    """Targets of items, and what they are.

    Attributes
    ----------
    values
        Shape ``(n,)`` of one column, ``(n, columns)`` of several.
    task, classes, class_names
        See :class:`~hpcsamp.data.manifest.Manifest`.
    names
        Of the columns.
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
) -> Targets:
    """Targets from columns of numbers or of words.

    Parameters
    ----------
    columns
        Numbers, or words in arrays of objects, each of shape ``(n,)``.
    task
        What they are; by default their types decide: words and whole numbers of few values are
        classes, several columns of 0 and 1 are labels that may come together.
    where
        What messages begin with.
    class_names
        Of the classes, in order, where they are known; words are numbered by them.

    Raises
    ------
    DataError
        If a column does not hold what the task needs.
    """
    kind = task
    names = list(columns)
    arrays = list(columns.values())
    text = [name for name, values in columns.items() if values.dtype.kind in "OSU"]
    if text and (len(columns) > 1 or kind not in (None, *LABELLED)):
        shown = next(v for v in columns[text[0]].tolist() if v is not None)
        raise DataError(
            f"{where}: column {text[0]!r} holds text ({shown!r}), where "
            f"{task or 'several targets'} needs numbers"
        )
    if text:
        if kind == "ordinal" and class_names is None:
            raise DataError(
                f"{where}: column {text[0]!r} holds words, whose order is not told; give "
                "--class-name for each, the least one first"
            )
        codes, words = numbered(columns[text[0]], class_names, f"{where}: column {text[0]!r}")
        return Targets(codes, kind or "classification", len(words), words, names)
    y = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)
    if kind == "multilabel" or (kind is None and len(arrays) > 1 and are_flags(arrays)):
        for name, values in columns.items():
            if not are_flags([values]):
                raise DataError(f"{where}: column {name!r} holds more than 0 and 1, which labels "
                                "that may come together are")  # fmt: skip
        flags = np.stack(arrays, axis=1).astype("<i8")
        return Targets(flags, "multilabel", 2, None, names)
    kind = kind or guess(where, {"train": (y, y)})
    if kind in LABELLED:
        y = labels_of(y, f"{where}: y")
        classes, notes = classes_of(where, {"train": y})
        if class_names is not None:
            check_labels(y, len(class_names), f"{where}: y")
            classes = len(class_names)
        told = None if class_names is None else [*class_names]
        return Targets(y.astype("<i8"), kind, classes, told, names, notes)
    check_numbers(y, f"{where}: y")
    return Targets(y if y.dtype.kind == "f" else y.astype("<f8"), kind, names=names)


def are_flags(columns: Sequence[np.ndarray]) -> bool:
    """Whether columns hold nothing but 0 and 1, in types of whole numbers or as labels."""
    return all(
        values.dtype.kind in "biuf" and bool(np.isin(values, (0, 1)).all()) for values in columns
    )


def numbered(
    words: np.ndarray, names: Sequence[str] | None, where: str
) -> tuple[np.ndarray, list[str]]:
    """Words as numbers from 0, and the words in that order: sorted, unless it is given.

    Raises
    ------
    DataError
        If a word is missing, is none of those that are given, or there is only one.
    """
    lacking = [i for i, word in enumerate(words.tolist()) if word is None]
    if lacking:
        raise DataError(f"{where}: item {lacking[0]} has no value")
    found, inverse = np.unique(words.astype(str), return_inverse=True)
    if names is None:
        if len(found) < 2:
            raise DataError(
                f"{where}: all items are {str(found[0])!r}; at least 2 classes are needed"
            )
        return inverse.astype("<i8"), [str(word) for word in found.tolist()]
    place = {name: i for i, name in enumerate(names)}
    unknown = [word for word in found.tolist() if word not in place]
    if unknown:
        known = ", ".join(list(place)[:20]) + (f" and {len(place) - 20} more") * (len(place) > 20)
        raise DataError(f"{where}: {unknown[0]!r} is not one of {known}")
    return np.asarray([place[word] for word in found.tolist()], "<i8")[inverse], list(names)
