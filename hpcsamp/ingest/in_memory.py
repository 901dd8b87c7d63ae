"""Build a source from data in memory: arrays, tensors, tables, dictionaries or torch datasets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np

from hpcsamp.data.manifest import Inputs
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import from_arrays
from hpcsamp.ingest.in_python import (
    check_rows,
    columns_of,
    in_order,
    names_of,
    plain,
    table_of,
    unmasked,
)
from hpcsamp.ingest.labels import numbered
from hpcsamp.ingest.named import from_named
from hpcsamp.ingest.source import ArraySource
from hpcsamp.names import Task
from hpcsamp.spelling import shown

KEYS = ("x", "y", "x_valid", "y_valid", "x_test", "y_test")
"""Names of the arrays in a dictionary."""

FORMS = (
    "(x, y); ((x, y), (x_valid, y_valid)); a dictionary of x, y, x_valid, y_valid ...; a torch "
    "Dataset of (x, y); or a dataset folder"
)


def source_of(
    data: Any,
    *,
    valid: Any = 0.1,
    task: Task | Mapping[str, Task] | None = None,
    inputs: Inputs | Mapping[str, Any] | None = None,
    normalize_y: bool | None = None,
    modelled: Collection[str] = (),
    seed: int = 0,
) -> ArraySource:
    """Build a source from arrays, tensors, tables or a torch ``Dataset``.

    Parameters
    ----------
    data
        ``(x, y)``, a pair of such pairs (training and validation), a dictionary with ``x`` and
        ``y`` and optionally ``x_valid``, ``y_valid``, ``x_test``, ``y_test``, or a ``Dataset``
        whose items are ``(x, y)``. ``x`` has shape ``(n, ...)`` and ``y`` shape ``(n,)`` or
        ``(n, ...)``; both may be anything that NumPy converts to an array, such as a tensor or a
        table of numbers. Several inputs or targets are dictionaries of arrays by name. An
        :class:`ArraySource` is returned unchanged.
    valid
        ``(x, y)`` of the validation items, or the fraction of the training items to hold out if
        ``data`` has no validation items.
    task
        ``None``: classification if ``y`` is one-dimensional and has whole numbers of an integer
        type or words, multilabel if it has several columns of zeros and ones, else regression. For
        several targets, a dictionary by name, which may leave out targets.
    inputs
        Meaning of whole numbers in ``x``: ``"ids"``, which are not standardised, or ``"numbers"``,
        which are. ``None``: numbers, if the type is unambiguous (``uint8``, ``bool``, floats). For
        several inputs, a dictionary by name.
    normalize_y
        Standardise targets in training. ``None``: standardise floating-point targets.
    modelled
        Names of targets for which the user chose a likelihood (``y`` for a single target). They are
        standardised only with ``normalize_y=True``, because the likelihood may be one of counts.
    seed
        Seed of the choice of held-out items.

    Raises
    ------
    DataError, UsageError
        If the data have none of these forms, or arrays do not fit together.
    """
    if isinstance(data, ArraySource):
        return data
    pairs, names = _pairs(data)
    fractions: dict[str, float] = {}
    if isinstance(valid, int | float) and not isinstance(valid, bool):
        if "valid" not in pairs and valid:
            fractions = {"valid": float(valid)}
    elif valid is not None:
        if "valid" in pairs:
            raise UsageError("validation items are given twice: in data and as valid")
        pairs["valid"] = _pair(valid, "valid", names)
    pairs, names = _only_target(pairs, names)
    if any(isinstance(values, dict) for pair in pairs.values() for values in pair):
        return _named(pairs, task, inputs, normalize_y, modelled, fractions, seed, names)
    if isinstance(inputs, Mapping):
        raise UsageError(f"inputs is a dictionary of {', '.join(inputs)}, but there is one input")
    if isinstance(task, Mapping):
        raise UsageError(f"task is a dictionary of {', '.join(task)}, but there is one target")
    words: list[str] | None = None
    if pairs["train"][1].dtype.kind in "OSU":
        pairs, words = _numbered(pairs, task)
        task = task or "classification"
    task = task or _flags(pairs["train"][1])
    for split, (x, y) in pairs.items():
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not x.size or not y.size:
            raise DataError(
                f"x of {split} has shape {x.shape}, y has shape {y.shape}; both need the same "
                f"number of items, at least 1"
            )
        if inputs is None and x.dtype.kind in "iu" and x.dtype != np.uint8:
            raise UsageError(
                f"x of {split} has whole numbers ({x.dtype}): ids, such as tokens of a text, or "
                f"numbers, such as counts? Pass inputs='ids' (not standardised) or "
                f"inputs='numbers' (standardised)"
            )
    if normalize_y is None:
        values = task in (None, "regression") and pairs["train"][1].dtype.kind == "f"
        normalize_y = values and "y" not in modelled
    try:
        made = from_arrays(
            pairs,
            name="arrays",
            task=task,
            inputs=inputs or "numbers",
            fractions=fractions,
            seed=seed,
            normalize_y=normalize_y,
            source={},
            names=(names.get("x", ()), names.get("y", ())),
        )
        made.class_names = words
        return made
    except DataError as e:  # turn options of the command into arguments
        raise DataError(re.sub(r"--(\w+) (\w+)", r"\1='\2'", str(e))) from e


def _numbered(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], task: Task | None
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """Replace words by labels in alphabetical order; return them with the words.

    Raises
    ------
    DataError
        If the task has no classes, or the order of classes matters.
    """
    y = {split: pair[1] for split, pair in pairs.items()}
    if task not in (None, "classification"):
        raise DataError(
            f"y of train has words, such as {str(y['train'].flat[0])!r}, but "
            + (
                "the order of classes matters: number them from 0"
                if task == "ordinal"
                else f"{task} needs numbers"
            )
        )
    for split, values in y.items():
        if values.ndim != 1 or values.dtype.kind not in "OSU":
            raise DataError(
                f"y of {split} has type {values.dtype} and shape {values.shape}, but y of train "
                "has words; one word for each item is needed"
            )
    whole = np.concatenate([values.astype(object) for values in y.values()])
    codes, words = numbered(whole, None, "y")
    ends = np.cumsum([len(values) for values in y.values()])[:-1]
    of_split = np.split(codes, ends)
    return {s: (pairs[s][0], of) for s, of in zip(y, of_split, strict=True)}, words


def _flags(y: np.ndarray) -> Task | None:
    """Return multilabel for several columns of zeros and ones, otherwise None."""
    some = y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "biuf"
    return "multilabel" if some and np.array_equal(np.unique(y), (0, 1)) else None


def _only_target(
    pairs: dict[str, tuple[Any, Any]], names: dict[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[str, ...]]]:
    """Replace a dictionary with a single target by its array, and name its column after it."""
    of = [y for _, y in pairs.values()]
    if not all(isinstance(y, dict) and len(y) == 1 and y.keys() == of[0].keys() for y in of):
        return pairs, names
    (name,) = of[0]
    columns = names.get(name) or ((name,) if of[0][name].shape[1:] in ((), (1,)) else ())
    found = {split: (x, y[name]) for split, (x, y) in pairs.items()}
    return found, {**names, "y": columns} if columns else names


def _named(
    pairs: Mapping[str, tuple[Any, Any]],
    task: Task | Mapping[str, Task] | None,
    inputs: Inputs | Mapping[str, Any] | None,
    normalize_y: bool | None,
    modelled: Collection[str],
    fractions: Mapping[str, float],
    seed: int,
    names: Mapping[str, Sequence[str]],
) -> ArraySource:
    """Build a source of several inputs or targets, see :func:`~hpcsamp.ingest.named.from_named`."""
    x, y = (
        (v if isinstance(v, dict) else {n: v}) for v, n in zip(pairs["train"], "xy", strict=True)
    )
    whole = {n: v for n, v in x.items() if v.dtype.kind in "iu" and v.dtype != np.uint8}
    kinds = inputs if isinstance(inputs, Mapping) else dict.fromkeys(whole, inputs)
    given = dict(task) if isinstance(task, Mapping) else dict.fromkeys(y, task)
    asked = {n: given.get(n) or _flags(v) for n, v in y.items()}
    asked |= {n: t for n, t in given.items() if n not in y}  # from_named refuses unknown names
    floats = [n for n, v in y.items() if v.dtype.kind == "f" and asked[n] in (None, "regression")]
    values = [n for n in floats if n not in modelled]
    return from_named(
        pairs,
        name="arrays",
        kinds={} if inputs is None else cast(Any, kinds),
        tasks={n: t for n, t in asked.items() if t is not None},
        normalize=values if normalize_y is None else [*y] * normalize_y,
        names=names,
        fractions=fractions,
        seed=seed,
    )


def _pairs(data: Any) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[str, ...]]]:
    """Return ``(x, y)`` by split, and the column names of arrays that have names."""
    parts: dict[str, Any]
    if isinstance(data, Mapping):
        unknown = [k for k in data if k not in KEYS]
        if unknown or "x" not in data or "y" not in data:
            raise UsageError(
                f"data is a dictionary of {', '.join(map(shown, data)) or 'nothing'}; its keys may "
                f"be {', '.join(KEYS)}, and x and y are needed"
            )
        ends = {"train": "", "valid": "_valid", "test": "_test"}
        parts = {
            split: (data.get(f"x{end}"), data.get(f"y{end}"))
            for split, end in ends.items()
            if f"x{end}" in data or f"y{end}" in data
        }
    elif isinstance(data, tuple | list) and len(data) == 2:
        both = all(isinstance(d, tuple | list) and len(d) == 2 and _has_shapes(d) for d in data)
        parts = dict(zip(("train", "valid"), data, strict=True)) if both else {"train": data}
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "shape"):
        parts = {"train": _stacked(data)}
    else:
        raise UsageError(f"data is a {type(data).__name__}; it may be {FORMS}")
    columns = _columns(_both(parts["train"], "train"))
    return {split: _pair(pair, split, columns) for split, pair in parts.items()}, columns


def _both(pair: Any, split: str) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UsageError(f"the {split} items are a {type(pair).__name__}, but must be (x, y)")
    return pair[0], pair[1]


def _pair(pair: Any, split: str, columns: Mapping[str, Sequence[str]]) -> tuple[Any, Any]:
    """Convert a pair to arrays whose columns have the same order as in train."""
    both = _both(pair, split)
    check_rows(*both, split)
    found = []
    for value, name in zip(both, "xy", strict=True):
        parts = value if isinstance(value, Mapping) else {name: value}
        arrays = {}
        for part, held in parts.items():
            where = f"{name} of {split}" if held is value else f"{part} in {name} of {split}"
            arrays[str(part)] = in_order(
                _array(held, where), names_of(held), columns.get(str(part), ()), where
            )
        found.append(arrays if isinstance(value, Mapping) else arrays[name])
    return found[0], found[1]


def _columns(pair: tuple[Any, Any]) -> dict[str, tuple[str, ...]]:
    """Return the column names of each array that has names."""
    found: dict[str, tuple[str, ...]] = {}
    for value, name in zip(pair, "xy", strict=True):
        parts = value if isinstance(value, Mapping) else {name: value}
        found |= {str(part): names_of(held) for part, held in parts.items()}
    return {name: columns for name, columns in found.items() if columns}


def _array(value: Any, where: str) -> np.ndarray:
    if value is None:
        raise UsageError(f"{where} is missing")
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        if str(value.dtype) in ("torch.bfloat16", "torch.float16"):
            value = value.float()
        value = value.numpy()
    columns = None if isinstance(value, Mapping) else columns_of(value)
    if columns is not None:
        return table_of(where, columns)
    try:
        found = np.asarray(unmasked(where, value))
    except (TypeError, ValueError) as e:
        raise UsageError(f"{where} cannot be converted to an array: {e}") from e
    found = plain(found) if found.dtype.kind == "O" else found
    words = all(isinstance(v, str) for v in found.flat)
    if found.dtype.kind == "O" and not (words and where.startswith("y of ")):
        kinds = sorted({type(v).__name__ for v in found.reshape(-1)[:1000]})
        raise DataError(f"{where} has values of type {', '.join(kinds)}, but numbers are needed")
    return found


def _has_shapes(pair: Any) -> bool:
    return all(
        hasattr(v, "shape") or hasattr(v, "__array__") or isinstance(v, Mapping) for v in pair
    )


def _stacked(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Stack all items of a torch ``Dataset``."""
    items = [data[i] for i in range(len(data))]
    for place, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UsageError(
                f"item {place} of data is a {type(item).__name__}; data may be {FORMS}"
            )
    if not items:
        raise DataError("data has no items")
    columns = []
    for place, name in enumerate("xy"):
        try:
            columns.append(np.stack([_array(item[place], name) for item in items]))
        except ValueError as e:
            raise DataError(f"{name} of the items cannot be stacked: {e}") from e
    return columns[0], columns[1]
