"""Several inputs and targets in memory as a source: arrays by name, for networks that take them."""

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
"""An array ``(n, ...)``, or a list with an array ``(steps, ...)`` of its own length per item."""

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
    """A source from inputs and targets by split; ``train`` is dealt to the splits of ``fractions``.

    ::

        pairs = {"train": ({"image": images, "age": ages}, {"kind": labels, "size": sizes})}
        build(from_named(pairs, name="plants"), "data/plants")

    Parameters
    ----------
    pairs
        Inputs and targets of each split. Several are a dictionary, in the order in which a network
        gets them; a single one is an array, and called ``x`` or ``y``.
    kinds
        What inputs are: ``"numbers"`` (standardised), ``"values"`` (numbers as they are), ``"ids"``
        or ``"flags"``. By default floats and bytes are numbers, bools flags, and sequences of
        floats of unequal length values; other whole numbers need to be told.
    tasks
        What targets are; by default their type decides.
    missing
        What stands for a value of a target that is not known: ``"nan"``, or a number among labels.
    masks
        By the name of an input whose items are of unequal length: the input that tells where they
        end, by its name or a :class:`~hpcsamp.ingest.padding.Mask`. Targets of unequal length need
        none: what is beyond their end is missing.
    weights
        ``(n,)`` weights of the items by split, from 0 on.
    normalize
        Targets that are standardised for training.
    class_names
        Of the classes of a target.
    names, units
        Of the rows of an array, such as the columns of a table.

    Raises
    ------
    DataError
        If types or shapes do not fit, a value is NaN or infinite, or labels are no classes, naming
        the array.
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
                raise DataError(f"{file}: {what} of {key!r}; there is {', '.join(known)}")
    inputs, found_kinds = _inputs(x, kinds, masks_by_name(masks or {}), file)
    targets: dict[str, dict[str, np.ndarray]] = {}
    told: dict[str, Target] = {}
    notes: list[str] = []
    for array, parts in y.items():
        target, targets[array], said = _target(
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
                f"{file}: {len(known_names)} names for the {target.classes} classes of {array}"
            )
        told[array] = target.model_copy(update={"class_names": known_names})
        notes += said
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
    only = next(iter(told.values())) if len(told) == 1 else None
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
    for n, target in told.items():
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
        targets={} if only is not None else told,
        arrays=specs,
        splits={split: len(next(iter(held.values()))) for split, held in items.items()},
        source=source,
        transforms=[*([f"random split, {divided}, seed {seed}"] if fractions else []), *notes],
        report=notes,
        items=items,
    )


def _by_array(parts: Mapping[str, Any], alone: str, file: str) -> dict[str, dict[str, Values]]:
    """Values by array and split; a single array, also in a dictionary, is called ``alone``.

    Raises
    ------
    DataError
        If splits have other arrays than train.
    """
    if "train" not in parts:
        raise DataError(f"{file}: there is no train among the splits {', '.join(parts) or 'none'}")
    named = {s: dict(p) if isinstance(p, Mapping) else {alone: p} for s, p in parts.items()}
    names = list(named["train"])
    for split, held in named.items():
        if set(held) != set(names) or not names:
            raise DataError(
                f"{file}: {split} has the arrays {', '.join(map(str, held)) or 'none'}, train "
                f"{', '.join(map(str, names)) or 'none'}"
            )
    found = {str(n): {split: held[n] for split, held in named.items()} for n in names}
    if len(names) == 1 and (alone == "y" or not _needs_name(found[str(names[0])])):
        found = {alone: found[str(names[0])]}
    return found


def _needs_name(parts: Mapping[str, Values]) -> bool:
    """Whether an only input comes with a mask, and so is not the only one."""
    return any(is_ragged(values) for values in parts.values())


def _inputs(
    x: Mapping[str, Mapping[str, Values]],
    kinds: Mapping[str, Kind],
    masks: Mapping[str, Mask],
    file: str,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Kind]]:
    """Arrays of the inputs by split, with masks of those that were padded; what each is."""
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
                    f'tells the network where they end, masks={{{name!r}: "attention_mask"}}'
                )
            before = of_masks.setdefault(mask.name, (mask, lengths))
            if before[0] != mask or any((before[1][s] != n).any() for s, n in lengths.items()):
                raise DataError(
                    f"{file}: the mask {mask.name} of {name} is also that of an input with items "
                    f"of other lengths"
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
            raise DataError(f"{file}: the mask {name} is an input already")
        longest = max(int(n.max()) for n in lengths.values())
        arrays[name] = {s: mask.of(n, longest) for s, n in lengths.items()}
        found[name] = "flags" if mask.is_bool else "ids"
    for name, kind in found.items():
        types = {v.dtype.kind for v in arrays[name].values()}
        if kind == "ids" and not types <= {"i", "u"}:
            raise DataError(f"{file}: {name} is {arrays[name]['train'].dtype}; ids are of an "
                            f"integer type")  # fmt: skip
        if kind == "flags" and not types <= {"b", "u", "i"}:
            raise DataError(f"{file}: {name} is {arrays[name]['train'].dtype}; flags are of type "
                            f"bool")  # fmt: skip
    return arrays, found


def _kind(name: str, values: np.ndarray, ragged: bool, file: str) -> Kind:
    if values.dtype.kind == "b":
        return "flags"
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        raise DataError(
            f"{file}: {name} holds whole numbers ({values.dtype}): ids, such as tokens of a text, "
            f'or numbers, such as counts? Say kinds={{{name!r}: "ids"}} or "numbers"'
        )
    return "values" if ragged else "numbers"  # statistics would count the padding


def _filled(
    parts: Mapping[str, Values],
    name: str,
    missing: dict[str, Missing],
    tasks: Mapping[str, Task],
    file: str,
) -> dict[str, np.ndarray]:
    """A target by split; beyond the end of a sequence it is missing, as ``missing`` then tells."""
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
    """What a target is, its values, and notes for the user."""
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
            raise DataError(f"{of}: {missing} stands for a missing label; among numbers NaN does")
        parts = {s: v if v.dtype.kind == "f" else v.astype(np.float64) for s, v in parts.items()}
        return Target(task=task, normalize=normalize, missing=missing), parts, []
    labels = {}
    for split, values in parts.items():
        where = f"{file}: {name} of {split}"
        if missing == "nan":
            raise DataError(f"{where}: a missing label is a whole number, e.g. -1, and not NaN")
        if values.ndim == 2 and values.shape[1] == 1 and task != "multilabel":
            values = values[:, 0]
        if values.dtype.kind == "f" and (values != np.floor(values)).any():
            raise DataError(f"{where}: labels are whole numbers")
        labels[split] = values.astype(np.int64)
    seen = {s: v[v != missing] if is_label else v for s, v in labels.items()}
    if not seen["train"].size:
        raise DataError(f"{of}: no label of train is known")
    classes, notes = classes_of(of, {s: v.reshape(-1) for s, v in seen.items() if v.size})
    if task == "multilabel" and classes > 2:
        raise DataError(f"{of}: labels that may come together are 0 and 1, there is {classes - 1}")
    return Target(task=task, classes=classes, missing=missing), labels, notes


def _counts(arrays: Mapping[str, BySplit], splits: list[str], file: str) -> dict[str, int]:
    """Items of each split.

    Raises
    ------
    DataError
        If arrays of a split have different numbers of items, naming two of them.
    """
    found: dict[str, int] = {}
    for split in splits:
        first = ""
        for name, parts in arrays.items():
            if split not in parts:
                raise DataError(f"{file}: there are no {name}s of {split}")
            values = parts[split]
            if values.ndim < 1 or not len(values):
                raise DataError(f"{file}: {name} of {split} has no items")
            first = first or name
            if found.setdefault(split, len(values)) != len(values):
                raise DataError(
                    f"{file}: {split} has {found[split]} items of {first} and {len(values)} of "
                    f"{name}"
                )
            if values.shape[1:] != parts["train"].shape[1:]:
                raise DataError(
                    f"{file}: {name} of {split} has items {values.shape[1:]}, train "
                    f"{parts['train'].shape[1:]}"
                )
    return found


def _spec(parts: BySplit, where: str, names: Sequence[str], units: str) -> ArraySpec:
    """The smallest type that holds the values of all splits."""
    held = {f"{where} of {s}": values for s, values in parts.items()}
    return ArraySpec.plan(
        parts["train"].shape[1:], common_type(held), names=list(names), units=units
    )
