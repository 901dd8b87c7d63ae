"""Fields of xarray datasets as a source: variables become inputs and targets."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, cast, get_type_hints

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.division import ROWS, Rule, divide
from hpcsamp.ingest.grids import Stack, coordinates, plain, stack, units_of
from hpcsamp.ingest.grids import select as selected
from hpcsamp.ingest.labels import targets_of, unseen
from hpcsamp.ingest.source import Source, check_once
from hpcsamp.ingest.steps import Held, by_chunk, chunk_steps
from hpcsamp.ingest.units import conversions, with_units
from hpcsamp.names import Task

if TYPE_CHECKING:
    import xarray

Variables = Annotated[Sequence[str], Asked("Variable of the inputs x.", "--x")]
Answers = Annotated[Sequence[str], Asked("Variable of the targets y.", "--y")]
Selection = Annotated[
    Sequence[str], Asked("Part of a dimension: level=500,850 or latitude=30:60.", "--select")
]
Units = Annotated[
    Sequence[str],
    Asked(
        "Unit to which a variable is converted from that of the file, by pint: t2m=degC, msl=hPa.",
        "--units",
    ),
]
Lead = Annotated[int, Asked("Lead of a forecast: number of items from x to y.", least=0)]
Keep = Annotated[bool, Asked("Keep missing values (NaN) of y; training ignores them.")]
Made = TypeVar("Made", bound=Callable[..., Any])


class FieldOptions(TypedDict, total=False):
    """Options of all sources of fields; their defaults are those of :func:`gridded`."""

    select: Selection
    units: Units
    lead: Lead
    keep_missing: Keep
    fractions: Mapping[str, Part]
    seed: SplitSeed
    rule: Rule | None
    normalize_y: NormalizeY


def with_options(source: Made) -> Made:
    """Give a source the options of :func:`gridded` in its signature, from which commands are made.

    They replace its ``**options``.
    """
    own, common = inspect.signature(source), inspect.signature(gridded)
    hints, target = get_type_hints(FieldOptions, include_extras=True), cast(Any, source)
    kept = list(own.parameters.values())[:-1]
    target.__signature__ = own.replace(parameters=[*kept, *(common.parameters[n] for n in hints)])
    target.__annotations__ = {p.name: p.annotation for p in kept} | hints
    return source


@dataclass
class Gridded(Source):
    """Items along one dimension of one or more xarray datasets.

    Attributes
    ----------
    parts
        The datasets, concatenated along the dimension of the items.
    x_stack, y_stack
        Stacking of the variables into arrays.
    rows
        Positions of the inputs of each split.
    lead
        Number of items from input to target.
    labels
        Labels of each split, for classification.
    store, unread
        The local folder of a zarr store, and its variables that are not read.
    stepwise
        Number of items in a chunk of the store, of which items are read together; 0 if there are no
        chunks.
    """

    parts: list[xarray.Dataset] = field(default_factory=list)
    x_stack: Stack | None = None
    y_stack: Stack | None = None
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    lead: int = 0
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    store: Path | None = None
    unread: frozenset[str] = frozenset()
    stepwise: int = 0

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        ends = self._ends(self.rows[split][start:stop])
        if len(ends) > 1:
            parts = [
                self.read(split, start + begin, start + end)
                for begin, end in itertools.pairwise([0, *ends])
            ]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert self.x_stack is not None
        assert self.y_stack is not None
        rows = self.rows[split][start:stop]
        kinds = {name: np.dtype(self.arrays[name].dtype) for name in ("x", "y")}
        found = {"x": read_rows(self.parts, self.x_stack, rows, kinds["x"])}
        if self.labels:
            found["y"] = self.labels[split][start:stop]
        else:
            y = read_rows(self.parts, self.y_stack, rows + self.lead, kinds["y"])
            found["y"] = y.reshape(len(rows), *self.arrays["y"].shape)
        sample = self.x_stack.sample
        if sample in self.coords:
            values = np.concatenate([plain(part[sample])[0] for part in self.parts])
            found[sample] = values[rows].astype(np.float64)
        return found

    def _ends(self, rows: np.ndarray) -> list[int]:
        """Return the number of rows up to the end of each chunk that they are in."""
        if not self.stepwise or self.x_stack is None or len(rows) < 2:
            return [len(rows)]
        begins = np.cumsum([0, *(part.sizes[self.x_stack.sample] for part in self.parts)])
        part = np.searchsorted(begins, rows, side="right") - 1
        chunk = (rows - begins[part]) // self.stepwise
        changes = (np.diff(part) != 0) | (np.diff(chunk) != 0)
        return [*(np.flatnonzero(changes) + 1).tolist(), len(rows)]

    @property
    def after(self) -> np.timedelta64 | None:
        """See :class:`Source`; unknown if times are not regular."""
        sample = "" if self.x_stack is None else self.x_stack.sample
        if not self.lead or any(part.get(sample, None) is None for part in self.parts):
            return None
        times = np.concatenate([part[sample].values for part in self.parts])
        steps = np.diff(times) if times.dtype.kind == "M" else times[:0]
        if not len(steps) or (steps != steps[0]).any():
            return None
        found: np.timedelta64 = (self.lead * steps[0]).astype("timedelta64[s]")
        return found

    def content(self) -> str:
        """See :class:`Source`.

        For a store in a local folder the digest covers names and bytes of all files except those of
        unread variables; for a remote store it covers the axes, first and last items.
        """
        if "sha256" in self.source:
            return ""
        found = hashlib.sha256()
        if self.store is not None:
            for path in sorted(p for p in self.store.rglob("*") if p.is_file()):
                part = path.relative_to(self.store)
                if part.parts[0] not in self.unread:
                    found.update(f"{part.as_posix()}\0{sha256(path)}".encode())
            return found.hexdigest()
        for name in sorted(map(str, self.parts[0].coords)):
            found.update(str(self.parts[0][name].values.tolist()).encode())
        for split in self.splits:
            for at in (0, self.splits[split] - 1):
                for values in self.read(split, at, at + 1).values():
                    found.update(np.ascontiguousarray(values).tobytes())
        return f"of axes, first and last items: {found.hexdigest()}"


def gridded(
    parts: Sequence[xarray.Dataset],
    files: Sequence[str],
    source: dict[str, Any],
    x: Sequence[str],
    y: Sequence[str],
    *,
    sample: str,
    task: Task = "regression",
    select: Selection = (),
    units: Units = (),
    lead: Lead = 0,
    keep_missing: Keep = False,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> Gridded:
    """Build a source from xarray datasets; see :func:`~hpcsamp.ingest.netcdf.netcdf`."""
    rule = rule or Rule()
    if not x or not y:
        raise UsageError(f"{files[0]}: give --x and --y, each a variable among "
                         f"{', '.join(map(str, parts[0].data_vars))}")  # fmt: skip
    check_once(files)
    # chunks are those of the whole dimension of the items, of which a part is selected afterwards
    of_items = [text for text in select if text.partition("=")[0] == sample]
    others = [text for text in select if text not in of_items]
    held: dict[str, Held] = {}
    chosen, each = [], 0
    for part, file in zip(parts, files, strict=True):
        part = selected(part, others, file)
        known = [name for name in (*x, *y) if name in part]
        each = max(each, chunk_steps(part, known, sample))
        chosen.append(selected(by_chunk(part, known, sample, held), of_items, file))
    stacks = []
    for part, file in zip(chosen, files, strict=True):
        inputs = stack(part, x, sample, file)
        stacks.append([inputs, stack(part, y, sample, file, inputs.grid)])
    for part, file, own in zip(chosen, files, stacks, strict=True):
        _alike(chosen[0], files[0], part, file, stacks[0], own, sample)
    changed = conversions(chosen[0], [*x, *y], units, files[0])
    chosen = [with_units(part, changed) for part in chosen]
    first = chosen[0]
    x_stack, y_stack = (replace(own, conversions=changed) for own in stacks[0])
    count = sum(part.sizes[sample] for part in chosen) - lead
    if count < 1:
        raise DataError(f"{files[0]}: {count + lead} items are too few for a lead of {lead}")

    def along(name: str) -> np.ndarray:
        if any(name not in part or part[name].dims != (sample,) for part in chosen):
            raise UsageError(f"{files[0]} has no variable or coordinate {name!r} along {sample!r}")
        return np.concatenate([part[name].values for part in chosen])[:count]

    labels: np.ndarray | None = None
    converted = [f"unit of {n} converted from {c.old} to {c.new}" for n, c in changed.items()]
    notes = list(converted)
    found = None
    if task == "classification":
        if len(y) > 1 or y_stack.shape != (1,):
            raise DataError(
                f"{files[0]}: classification needs one label for each item, but y has shape "
                f"{y_stack.shape}"
            )
        values = read_rows(chosen, y_stack, np.arange(count) + lead)[:, 0]
        found = targets_of({y[0]: values}, task, files[0])
        labels, notes = found.values, found.notes
    if rule.chronological is not None and lead > rule.gap:
        rule = Rule(chronological=rule.chronological, gap=lead)  # no target in the next split
    dealt, split_notes = divide(count, fractions, seed, rule, along, labels=labels, where=files[0])
    ordered = sample in first.coords and first[sample].dtype.kind == "M"
    if ordered and not (rule.columns or rule.chronological == ROWS):
        notes.append(
            f"items are split at random, although {sample} orders them; --chronological "
            f"{sample} keeps splits apart in time"
        )
        again = count - len(np.unique(along(sample)))
        if again:
            notes.append(f"{again} of {count} items have the same {sample} as another item")
    scalar = y_stack.shape == (1,) and not y_stack.grid
    kinds = [np.result_type(*(first[v].dtype for v in s.variables)) for s in (x_stack, y_stack)]
    by_split = {} if labels is None else {s: labels[r] for s, r in dealt.items()}
    return Gridded(
        name=Path(files[0]).stem,
        task=task,
        classes=None if found is None else found.classes,
        normalize_y=normalize_y and labels is None,
        missing="nan" if keep_missing and labels is None else None,
        arrays={
            "x": ArraySpec.plan(x_stack.shape, _real(kinds[0]), names=x_stack.names,
                                units=units_of(first, x_stack)),
            "y": ArraySpec.plan(() if scalar else y_stack.shape,
                                "<i8" if labels is not None else _real(kinds[1]),
                                names=y_stack.names, units=units_of(first, y_stack)),
        },
        splits={s: len(rows) for s, rows in dealt.items()},
        source=source,
        meaning={"y": {"lead": f"{lead} items"}} if lead else {},
        transforms=[*(f"selected {text}" for text in select), *converted, *split_notes,
                    *([f"target {lead} items ahead"] if lead else [])],
        coords=coordinates(first, x_stack, y_stack),
        report=notes + unseen(by_split) if by_split else notes,
        parts=list(chosen),
        x_stack=x_stack,
        y_stack=y_stack,
        rows=dealt,
        lead=lead,
        labels=by_split,
        stepwise=each,
    )  # fmt: skip


def read_rows(
    parts: Sequence[xarray.Dataset],
    stacked: Stack,
    rows: np.ndarray,
    dtype: np.dtype | None = None,
) -> np.ndarray:
    """Read items by ascending position in concatenated datasets, shape ``(n, *shape)``.

    Raises
    ------
    DataError
        If items cannot be read.
    """
    found, begin = [], 0
    for part in parts:
        count = part.sizes[stacked.sample]
        own = rows[(rows >= begin) & (rows < begin + count)] - begin
        begin += count
        if not len(own):
            continue
        near = own[-1] - own[0] == len(own) - 1
        try:
            found.append(stacked.read(part, slice(own[0], own[-1] + 1) if near else own, dtype))
        except (OSError, ValueError, KeyError, RuntimeError) as e:
            file = part.encoding.get("source", "store")
            raise DataError(f"{file}: items {own[0]} to {own[-1]} cannot be read: {e}") from None
    return np.concatenate(found)


def _alike(
    first: xarray.Dataset,
    first_file: str,
    part: xarray.Dataset,
    file: str,
    stacks: Sequence[Stack],
    own: Sequence[Stack],
    sample: str,
) -> None:
    """Refuse files whose variables, grids or units differ from those of the first file."""
    for ours, theirs in zip(stacks, own, strict=True):
        if (ours.names, ours.shape) != (theirs.names, theirs.shape):
            raise DataError(
                f"{file}: {theirs.variables[0]} has items of shape {theirs.shape}, {first_file} "
                f"has {ours.shape}" + ("" if ours.shape != theirs.shape else " with other names")
            )
        if units_of(first, ours) != units_of(part, theirs):
            raise DataError(f"{file}: units are {units_of(part, theirs)!r}, but {first_file} has "
                            f"{units_of(first, ours)!r}")  # fmt: skip
        for dimension in ours.grid:
            if dimension in first.coords and not np.array_equal(
                first[dimension].values, part[dimension].values
            ):
                raise DataError(f"{file}: values of {dimension} differ from those in {first_file}")


def _real(kind: np.dtype) -> np.dtype:
    """Return the type in which numbers are stored."""
    if kind.kind == "f":
        return np.dtype("<f8" if kind.itemsize > 4 else "<f4")
    return np.dtype("<f4" if kind.itemsize <= 2 else "<f8")
