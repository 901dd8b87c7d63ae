"""Ingest an ``.npz`` file with several inputs or targets, given by the names of their arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from hpcsamp.data.roles import Kind, Missing
from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS
from hpcsamp.ingest.asked import Asked, Part, SplitSeed
from hpcsamp.ingest.labels import guess
from hpcsamp.ingest.named import from_named
from hpcsamp.ingest.npz import ENDINGS, read_arrays
from hpcsamp.ingest.source import ArraySource


def named(
    path: Annotated[str | Path, Asked("File to read.", "file", kind=Path)],
    targets: Annotated[
        Sequence[str], Asked("Array of a target; may be given several times.", "--target")
    ] = (),
    *,
    ids: Annotated[Sequence[str], Asked("Input with ids, such as tokens.", "--ids")] = (),
    numbers: Annotated[
        Sequence[str], Asked("Input with whole numbers to standardise.", "--numbers")
    ] = (),
    values: Annotated[
        Sequence[str], Asked("Input with numbers that are not standardised.", "--values")
    ] = (),
    weight: Annotated[str | None, Asked("Array with the weights of the items.")] = None,
    missing_label: Annotated[int | None, Asked("Number that marks a missing label.")] = None,
    keep_missing: Annotated[bool, Asked("NaN in a target marks a missing value.")] = False,
    normalize: Annotated[
        Sequence[str], Asked("Target to standardise in training.", "--normalize")
    ] = (),
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
) -> ArraySource:
    """Read an ``.npz`` file with several inputs or targets, under the names of its arrays.

    Parameters
    ----------
    path
        The file. Arrays have shape ``(n, ...)``; names of arrays of other splits end in ``_valid``
        and ``_test``.
    targets
        Arrays that are targets; all others are inputs, in the order of the file.
    ids, numbers, values
        Kinds of inputs, see :func:`~hpcsamp.ingest.named.from_named`.
    weight
        Array with the weights of the items.
    missing_label, keep_missing
        Markers of missing values of targets.
    normalize
        Targets that are standardised in training.
    fractions, seed
        Fractions of the items that become the splits the file does not have, and their seed.

    Raises
    ------
    DataError
        If the file cannot be read, or arrays do not fit together.
    UsageError
        If the file does not have a named array, or no target is given.

    Examples
    --------
    hpcsamp ingest named arrays.npz --target y --out data/named

    hpcsamp ingest named arrays.npz --target load --normalize load --ids station --out data/named
    """
    path = Path(path)
    held = read_arrays(path)
    splits = {
        split: {n.removesuffix(end): v for n, v in held.items() if _split_of(n, held) == split}
        for split, end in ENDINGS.items()
    }
    splits = {split: arrays for split, arrays in splits.items() if arrays}
    first = splits.get("train", {})
    kinds: dict[str, Kind] = {}
    for option, names, kind in (
        ("--ids", ids, "ids"), ("--numbers", numbers, "numbers"), ("--values", values, "values"),
        ("--target", targets, None), ("--weight", [weight] if weight else [], None),
        ("--normalize", normalize, None),
    ):  # fmt: skip
        for name in names:
            if name not in first:
                raise UsageError(
                    f"{path}: {option} {name} is not one of its arrays {', '.join(first)}"
                )
            if kind is not None:
                kinds[name] = kind  # type: ignore[assignment]
    if not targets:
        raise UsageError(f"{path}: give the arrays that are targets as --target, among "
                         f"{', '.join(first)}")  # fmt: skip
    pairs = {}
    for split, arrays in splits.items():
        lacking = [t for t in targets if t not in arrays]
        if lacking:
            raise DataError(f"{path} has no array {lacking[0]}{ENDINGS[split]}")
        inputs = {n: v for n, v in arrays.items() if n not in targets and n != weight}
        pairs[split] = (inputs, {t: arrays[t] for t in targets})
    missing: dict[str, Missing] = {}
    for name in targets:
        labels = _are_labels(path, name, first[name], missing_label)
        if labels and missing_label is not None:
            missing[name] = missing_label
        elif not labels and keep_missing:
            missing[name] = "nan"
    if len(targets) == 1:  # a single target is called y
        missing = dict(zip("y", missing.values(), strict=False))
        normalize = ["y"] if normalize else []
    return from_named(
        pairs,
        name=path.stem,
        source={"file": path.name, "sha256": sha256(path)},
        kinds=kinds,
        missing=missing,
        weights=None if weight is None else {s: arrays[weight] for s, arrays in splits.items()},
        normalize=normalize,
        fractions={name: part for name, part in fractions.items() if name not in pairs},
        seed=seed,
    )


def _split_of(name: str, held: Mapping[str, np.ndarray]) -> str:
    """Return the split of an array: not train only if train has the array without the ending."""
    for split, end in ENDINGS.items():
        if end and name.endswith(end) and name.removesuffix(end) in held:
            return split
    return "train"


def _are_labels(path: Path, name: str, y: np.ndarray, missing: int | None) -> bool:
    if y.dtype.kind not in "biu":
        return False
    known = y if missing is None else y[y != missing]
    return guess(f"{path}: {name}", {"train": (known, known)}) == "classification"
