"""Build a source from arrays in memory, stored in one type that is exact for all splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec, Inputs
from hpcsamp.data.roles import Missing
from hpcsamp.data.shard import check_values
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.division import Rule, divide
from hpcsamp.ingest.labels import Pairs, check_numbers, classes_of, guess, labels_of, unseen
from hpcsamp.ingest.source import ArraySource
from hpcsamp.kinds import has_labels
from hpcsamp.names import Task

DEFAULT_FRACTIONS = {"valid": 0.1, "test": 0.2}

EXACT = 2**53
"""All whole numbers up to this one are exact in float64, the type of statistics."""


def from_arrays(
    pairs: Pairs,
    *,
    name: str,
    source: Mapping[str, Any],
    task: Task | None = None,
    inputs: Inputs = "numbers",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    normalize_y: bool = False,
    descriptions: tuple[str, str] = ("", ""),
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
    missing: Missing | None = None,
    rule: Rule | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
) -> ArraySource:
    """Build a source from ``(x, y)`` by split; ``fractions`` of ``train`` are held out.

    Parameters
    ----------
    pairs
        ``x`` of shape ``(n, ...)`` and ``y`` of shape ``(n,)`` or ``(n, ...)``. Each is stored in
        the smallest type that represents the values of all splits exactly.
    task
        ``None``: classification if ``y`` is one-dimensional and has an integer type.
    inputs
        Kind of ``x``.
    names
        Names of the rows of an item of ``x`` and of ``y``, such as the columns of a table.
    missing
        Marker of missing values in ``y``: ``"nan"``, or an integer for labels.
    rule, columns
        Rule that splits the items, if not at random, and the columns that it names.

    Raises
    ------
    DataError
        If types or shapes do not fit, a value is NaN or loses digits, or labels are not valid
        classes. The message names the array.
    """
    if missing is not None or (task is not None and task != "classification" and has_labels(task)):
        from hpcsamp.ingest.named import from_named

        made = from_named(
            pairs,
            name=name,
            source=source,
            kinds={"x": inputs},
            tasks={} if task is None else {"y": task},
            missing={} if missing is None else {"y": missing},
            normalize=["y"] * normalize_y,
            names={"x": names[0], "y": names[1]},
            fractions=fractions,
            seed=seed,
        )
        for array, description in zip("xy", descriptions, strict=True):
            spec = made.arrays[array].model_copy(update={"description": description})
            made.arrays[array] = spec
        return made
    file = str(source.get("file", name))
    if task is None:
        task = guess(file, pairs)
    if task == "classification":
        pairs = {
            split: (x, labels_of(y, f"{file}: y of {split}")) for split, (x, y) in pairs.items()
        }
    kinds = {}
    for place, array in enumerate(("x", "y")):
        parts = {f"{file}: {array} of {split}": pair[place] for split, pair in pairs.items()}
        first = pairs["train"][place].shape[1:]
        for where, values in parts.items():
            if values.shape[1:] != first:
                raise DataError(
                    f"{where} has items of shape {values.shape[1:]}, but train has {first}"
                )
            check_numbers(values, where)
            check_values(values, where)
            if array == "x" and inputs == "ids" and values.dtype.kind not in "iu":
                raise DataError(f"{where} has type {values.dtype}; ids need an integer type")
        kinds[array] = common_type(parts)
    classes: int | None = None
    notes: list[str] = []
    if task == "classification":
        classes, notes = classes_of(file, {split: y for split, (_, y) in pairs.items()})
        kinds["y"] = np.dtype("<i8")
    elif kinds["y"].kind != "f":
        kinds["y"] = np.dtype("<f8")
    if inputs == "ids" and kinds["x"].kind == "f":  # promoted from signed and unsigned types
        kinds["x"] = np.dtype("<i8")
    x, y = pairs["train"]
    held = columns or {}
    if rule is not None and [name for name in rule.columns if name not in held]:
        raise UsageError(f"{file} has no column {rule.columns[0]!r}, only {', '.join(held) or 'x'}")
    parts, dealt = divide(
        len(x),
        fractions,
        seed,
        rule,
        lambda name: held[name],
        labels=None if classes is None else y,
        where=file,
    )
    items = {
        split: {"x": x[rows].astype(kinds["x"]), "y": y[rows].astype(kinds["y"])}
        for split, rows in parts.items()
    }
    for split, (a, b) in pairs.items():
        if split != "train":
            items[split] = {"x": a.astype(kinds["x"]), "y": b.astype(kinds["y"])}
    if classes is not None:
        notes += unseen({split: values["y"] for split, values in items.items()})
    report = list(notes)
    if inputs == "ids":
        top = max(int(pair[0].max()) for pair in pairs.values())
        report.append(f"the largest id of x is {top}: an embedding needs at least {top + 1} rows")
    return ArraySource(
        name=name,
        task=task,
        classes=classes,
        inputs=inputs,
        normalize_y=normalize_y,
        arrays={
            "x": ArraySpec.plan(
                x.shape[1:], kinds["x"], description=descriptions[0], names=names[0]
            ),
            "y": ArraySpec.plan(
                y.shape[1:], kinds["y"], description=descriptions[1], names=names[1]
            ),
        },
        splits={split: len(values["x"]) for split, values in items.items()},
        source=dict(source),
        transforms=[*dealt, *notes],
        report=report,
        items=items,
    )


def common_type(parts: Mapping[str, np.ndarray]) -> np.dtype:
    """Return the common type in which arrays are stored, by NumPy's promotion.

    Parameters
    ----------
    parts
        Arrays by their names in messages.

    Raises
    ------
    DataError
        If the type would change a value; the message names the array and the value.
    """
    found = np.result_type(*(values.dtype for values in parts.values()))
    if found.kind == "b":
        found = np.dtype("u1")
    elif found.kind == "f" and found.itemsize > 8:
        found = np.dtype("f8")
    for where, values in parts.items():
        with np.errstate(over="ignore", invalid="ignore"):
            changed = (values.astype(found) != values) & (values == values)  # NaN stays NaN
        if changed.any():
            value = values[changed].reshape(-1)[0]
            raise DataError(
                f"{where}: {value} in {values.dtype} is not exact in {found}, the common type of "
                "all splits; store all splits in one type"
            )
        if values.dtype.kind in "iu" and values.size:
            top = max(abs(int(values.min())), abs(int(values.max())))
            if top > EXACT:
                raise DataError(
                    f"{where}: {top} is above 2**53, where whole numbers lose digits in float64; "
                    "subtract an offset, or number them"
                )
    return found.newbyteorder("<")
