"""Build a source from several inputs and targets in memory, given as arrays by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.roles import WEIGHT, Kind, Missing, Target
from hpcsamp.data.shard import check_values, check_weights
from hpcsamp.errors import DataError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS, common_type
from hpcsamp.ingest.labels import check_numbers, classes_of, guess, unseen
from hpcsamp.ingest.padding import Mask, is_ragged, lengths_of, masks_by_name, padded
from hpcsamp.ingest.source import ArraySource, split_items
from hpcsamp.kinds import has_labels
from hpcsamp.names import Task

Values = Any
"""An array ``(n, ...)``, or a list with an array ``(steps, ...)`` of any length for each item."""

BySplit = Mapping[str, np.ndarray]


def from_named(
    pairs: Mapping[str, tuple[Values | Mapping[str, Values], Values | Mapping[str, Values]]],
    *,
    name: str,
    source: Mapping[str, Any] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    tasks: Mapping[str, Task] | None = None,
    missing: Mapping[str, Missing] | None = None,
    masks: Mapping[str, str | Mask] | None = None,
    weights: BySplit | None = None,
    normalize: Sequence[str] = (),
    class_names: Mapping[str, Sequence[str]] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
) -> ArraySource:
    """Build a source from inputs and targets by split; ``fractions`` of ``train`` are held out.

    ::

        pairs = {"train": ({"image": images, "age": ages}, {"kind": labels, "size": sizes})}
        build(from_named(pairs, name="plants"), "data/plants")

    Parameters
    ----------
    pairs
        Inputs and targets of each split. Several are a dictionary, in the order in which the
        network takes them; a single one is an array, and is called ``x`` or ``y``.
    kinds
        Kind of each input: ``"numbers"`` (standardised), ``"values"`` (numbers that are not
        standardised), ``"ids"`` or ``"flags"``. By default floats and bytes are numbers, bools are
        flags, and float sequences of unequal length are values. Other integer inputs need a kind.
    tasks
        Task of each target; by default it follows from its type.
    missing
        Marker of missing values of a target: ``"nan"``, or an integer for labels.
    masks
        For each input with items of unequal length: the input that marks where they end, by its
        name or as a :class:`~hpcsamp.ingest.padding.Mask`. Targets of unequal length need no mask:
        values beyond their end are missing.
    weights
        Non-negative weights of the items, ``(n,)``, by split.
    normalize
        Targets that are standardised in training.
    class_names
        Names of the classes of each target.
    names, units
        Names and units of the rows of each array, such as the columns of a table.

    Raises
    ------
    DataError
        If types or shapes do not fit, a value is NaN or infinite, or labels are not valid classes.
        The message names the array.
    """
    source = dict(source or {})
    file = str(source.get("file", name))
    kinds, tasks, missing = dict(kinds or {}), dict(tasks or {}), dict(missing or {})
    x = _by_array({split: pair[0] for split, pair in pairs.items()}, "x", file)
    y = _by_array({split: pair[1] for split, pair in pairs.items()}, "y", file)
    asked: list[tuple[str, Any, Mapping[str, Any]]] = [
        ("kinds", kinds, x), ("tasks", tasks, y), ("missing", missing, y),
        ("masks", masks or {}, x), ("normalize", normalize, y), ("class_names", class_names, y),
        ("names", names, x | y), ("units", units, x | y),
    ]  # fmt: skip
    for what, of_arrays, known in asked:
        for key in of_arrays or ():
            if key not in known:
                raise DataError(
                    f"{file}: {what} has the unknown name {key!r}; it may be {', '.join(known)}"
                )
    inputs, found_kinds = _inputs(x, kinds, masks_by_name(masks or {}), file)
    targets: dict[str, dict[str, np.ndarray]] = {}
    descriptions: dict[str, Target] = {}
    notes: list[str] = []
    for array, parts in y.items():
        target, targets[array], target_notes = _target(
            _filled(parts, array, missing, tasks, file),
            array,
            tasks.get(array),
            missing.get(array),
            array in normalize,
            file,
        )
        known_names = list((class_names or {}).get(array, ())) or None
        if known_names is not None and len(known_names) != target.classes:
            raise DataError(
                f"{file}: {len(known_names)} class names are given for the {target.classes} "
                f"classes of {array}"
            )
        descriptions[array] = target.model_copy(update={"class_names": known_names})
        notes += target_notes
    arrays = inputs | targets
    if weights is not None:
        arrays[WEIGHT] = {split: np.asarray(w, np.float64) for split, w in weights.items()}
        for split, values in arrays[WEIGHT].items():
            check_weights(values, f"{file}: weights of {split}")
    counts = _counts(arrays, list(pairs), file)
    specs = {
        n: _spec(parts, f"{file}: {n}", (names or {}).get(n, ()), (units or {}).get(n, ""))
        for n, parts in arrays.items()
    }
    only = next(iter(descriptions.values())) if len(descriptions) == 1 else None
    labels = None
    if only is not None and only.classes is not None and only.missing is None:
        first = next(iter(targets.values()))["train"]
        labels = first if first.ndim == 1 else None
    rows = split_items(counts["train"], fractions, labels=labels, seed=seed)
    items = {split: {n: parts["train"][of] for n, parts in arrays.items()}
             for split, of in rows.items()}  # fmt: skip
    items |= {s: {n: p[s] for n, p in arrays.items()} for s in pairs if s != "train"}
    items = {split: {n: v.astype(specs[n].dtype) for n, v in held.items()}
             for split, held in items.items()}  # fmt: skip
    for n, target in descriptions.items():
        if target.classes is not None and target.missing is None:
            notes += unseen({split: held[n] for split, held in items.items()})
    divided = ", ".join(f"{split} {part:g}" for split, part in fractions.items())
    plain = list(inputs) == ["x"] and found_kinds["x"] in ("numbers", "ids")
    return ArraySource(
        name=name,
        task="several" if only is None else only.task,
        classes=None if only is None else only.classes,
        class_names=None if only is None else only.class_names,
        inputs=found_kinds["x"] if plain else found_kinds,  # type: ignore[arg-type]
        normalize_y=only is not None and only.normalize,
        missing=None if only is None else only.missing,
        targets={} if only is not None else descriptions,
        arrays=specs,
        splits={split: len(next(iter(held.values()))) for split, held in items.items()},
        source=source,
        transforms=[*([f"random split, {divided}, seed {seed}"] if fractions else []), *notes],
        report=notes,
        items=items,
    )


def _by_array(parts: Mapping[str, Any], alone: str, file: str) -> dict[str, dict[str, Values]]:
    """Group values by array and split; a single array, even in a dictionary, is named ``alone``.

    Raises
    ------
    DataError
        If a split does not have the same arrays as train.
    """
    if "train" not in parts:
        raise DataError(f"{file}: the split train is missing among {', '.join(parts) or 'none'}")
    named = {s: dict(p) if isinstance(p, Mapping) else {alone: p} for s, p in parts.items()}
    names = list(named["train"])
    for split, held in named.items():
        if set(held) != set(names) or not names:
            raise DataError(
                f"{file}: {split} has the arrays {', '.join(map(str, held)) or 'none'}, but train "
                f"has {', '.join(map(str, names)) or 'none'}"
            )
    found = {str(n): {split: held[n] for split, held in named.items()} for n in names}
    if len(names) == 1 and (alone == "y" or not _needs_name(found[str(names[0])])):
        found = {alone: found[str(names[0])]}
    return found


def _needs_name(parts: Mapping[str, Values]) -> bool:
    """Whether a single input needs a mask, which becomes a second input."""
    return any(is_ragged(values) for values in parts.values())


def _inputs(
    x: Mapping[str, Mapping[str, Values]],
    kinds: Mapping[str, Kind],
    masks: Mapping[str, Mask],
    file: str,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Kind]]:
    """Return the arrays of the inputs by split, with masks of padded ones, and their kinds."""
    arrays: dict[str, dict[str, np.ndarray]] = {}
    found: dict[str, Kind] = {}
    of_masks: dict[str, tuple[Mask, dict[str, np.ndarray]]] = {}
    for name, parts in x.items():
        ragged = any(is_ragged(values) for values in parts.values())
        held: dict[str, np.ndarray] = {}
        if ragged:
            lengths = {s: lengths_of(v, f"{file}: {name} of {s}") for s, v in parts.items()}
            low = min(int(n.min()) for n in lengths.values())
            longest = max(int(n.max()) for n in lengths.values())
            mask = masks.get(name)
            if mask is None:
                raise DataError(
                    f"{file}: {name} has items of {low} to {longest} steps; name the input that "
                    f'marks where they end, such as masks={{{name!r}: "attention_mask"}}'
                )
            before = of_masks.setdefault(mask.name, (mask, lengths))
            if before[0] != mask or any((before[1][s] != n).any() for s, n in lengths.items()):
                raise DataError(
                    f"{file}: the mask {mask.name} of {name} is also the mask of an input whose "
                    f"items have other lengths"
                )
            held = {s: padded(v, longest, 0) for s, v in parts.items()}
        else:
            held = {s: np.asarray(v) for s, v in parts.items()}
        for split, values in held.items():
            where = f"{file}: {name} of {split}"
            check_numbers(values, where)
            check_values(values, where)
        found[name] = kinds.get(name) or _kind(name, held["train"], ragged, file)
        arrays[name] = held
    for name, (mask, lengths) in of_masks.items():
        if name in arrays:
            raise DataError(f"{file}: the mask {name} has the name of an input; rename it")
        longest = max(int(n.max()) for n in lengths.values())
        arrays[name] = {s: mask.of(n, longest) for s, n in lengths.items()}
        found[name] = "flags" if mask.is_bool else "ids"
    for name, kind in found.items():
        types = {v.dtype.kind for v in arrays[name].values()}
        if kind == "ids" and not types <= {"i", "u"}:
            raise DataError(f"{file}: {name} has type {arrays[name]['train'].dtype}; ids need an "
                            f"integer type")  # fmt: skip
        if kind == "flags" and not types <= {"b", "u", "i"}:
            raise DataError(f"{file}: {name} has type {arrays[name]['train'].dtype}; flags need "
                            f"type bool")  # fmt: skip
    return arrays, found


def _kind(name: str, values: np.ndarray, ragged: bool, file: str) -> Kind:
    if values.dtype.kind == "b":
        return "flags"
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        raise DataError(
            f"{file}: {name} has whole numbers ({values.dtype}): ids, such as tokens of a text, or "
            f'numbers, such as counts? Pass kinds={{{name!r}: "ids"}} or "numbers"'
        )
    return "values" if ragged else "numbers"  # statistics would count the padding


def _filled(
    parts: Mapping[str, Values],
    name: str,
    missing: dict[str, Missing],
    tasks: Mapping[str, Task],
    file: str,
) -> dict[str, np.ndarray]:
    """Pad a target by split; values beyond the end of a sequence are missing, see ``missing``."""
    if not any(is_ragged(values) for values in parts.values()):
        return {split: np.asarray(values) for split, values in parts.items()}
    lengths = {s: lengths_of(v, f"{file}: {name} of {s}") for s, v in parts.items()}
    longest = max(int(n.max()) for n in lengths.values())
    whole = all(np.asarray(v).dtype.kind in "biu" for held in parts.values() for v in held)
    task = tasks.get(name)
    labels = (task is not None and has_labels(task)) or (whole and tasks.get(name) is None)
    fill = missing.setdefault(name, -1 if labels else "nan")
    return {s: padded(v, longest, np.nan if fill == "nan" else fill) for s, v in parts.items()}


def _target(
    parts: dict[str, np.ndarray],
    name: str,
    task: Task | None,
    missing: Missing | None,
    normalize: bool,
    file: str,
) -> tuple[Target, dict[str, np.ndarray], list[str]]:
    """Return the description of a target, its values by split, and notes for the user."""
    of = file if name == "y" else f"{file}: {name}"
    for split, values in parts.items():
        check_numbers(values, f"{file}: {name} of {split}")
        check_values(values, f"{file}: {name} of {split}", missing)
    is_label = isinstance(missing, int) and not isinstance(missing, bool)
    if task is None:
        known = parts["train"]
        if is_label:
            known = known[known != missing]
        task = guess(of, {"train": (known, known)})
    if not has_labels(task):
        if is_label:
            raise DataError(
                f"{of}: missing = {missing} marks missing labels; missing numbers are marked by NaN"
            )
        parts = {s: v if v.dtype.kind == "f" else v.astype(np.float64) for s, v in parts.items()}
        return Target(task=task, normalize=normalize, missing=missing), parts, []
    labels = {}
    for split, values in parts.items():
        where = f"{file}: {name} of {split}"
        if missing == "nan":
            raise DataError(f"{where}: a missing label must be a whole number, e.g. -1, not NaN")
        if values.ndim == 2 and values.shape[1] == 1 and task != "multilabel":
            values = values[:, 0]
        if values.dtype.kind == "f" and (values != np.floor(values)).any():
            raise DataError(f"{where}: labels must be whole numbers")
        labels[split] = values.astype(np.int64)
    seen = {s: v[v != missing] if is_label else v for s, v in labels.items()}
    if not seen["train"].size:
        raise DataError(f"{of}: all labels of train are missing")
    classes, notes = classes_of(of, {s: v.reshape(-1) for s, v in seen.items() if v.size})
    if task == "multilabel" and classes > 2:
        raise DataError(f"{of}: multilabel targets must be 0 or 1, but there is {classes - 1}")
    return Target(task=task, classes=classes, missing=missing), labels, notes


def _counts(arrays: Mapping[str, BySplit], splits: list[str], file: str) -> dict[str, int]:
    """Return the number of items of each split.

    Raises
    ------
    DataError
        If arrays of a split have different numbers of items; the message names two arrays.
    """
    found: dict[str, int] = {}
    for split in splits:
        first = ""
        for name, parts in arrays.items():
            if split not in parts:
                raise DataError(f"{file}: {name} is missing for {split}")
            values = parts[split]
            if values.ndim < 1 or not len(values):
                raise DataError(f"{file}: {name} of {split} has no items")
            first = first or name
            if found.setdefault(split, len(values)) != len(values):
                raise DataError(
                    f"{file}: {split} has {found[split]} items of {first}, but {len(values)} of "
                    f"{name}"
                )
            if values.shape[1:] != parts["train"].shape[1:]:
                raise DataError(
                    f"{file}: {name} of {split} has items of shape {values.shape[1:]}, but train "
                    f"has {parts['train'].shape[1:]}"
                )
    return found


def _spec(parts: BySplit, where: str, names: Sequence[str], units: str) -> ArraySpec:
    """Plan an array with the smallest type that represents the values of all splits."""
    held = {f"{where} of {s}": values for s, values in parts.items()}
    return ArraySpec.plan(
        parts["train"].shape[1:], common_type(held), names=list(names), units=units
    )
