"""Targets of a table: their columns, tasks and labels by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.roles import Target
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.choice import listed
from hpcsamp.ingest.encoding import missing
from hpcsamp.ingest.labels import ItemTargets, are_flags, guess, targets_of, unseen
from hpcsamp.ingest.preparation import How, units_line
from hpcsamp.ingest.survey import TableSurvey
from hpcsamp.ingest.table import Table
from hpcsamp.names import Task

UNKNOWN = -1
"""Marker of a missing label."""

NUMBERS = ("regression", "counts")
"""Tasks whose targets are numbers and are read in blocks."""


@dataclass
class Wanted:
    """A requested target.

    Attributes
    ----------
    name
        Name of the array.
    columns
        Columns that it consists of.
    task
        Task; by default it follows from the type of the columns.
    class_names
        Names of its classes in order; by default the words in alphabetical order.
    alone
        Whether it is the only target.
    """

    name: str
    columns: list[str]
    task: Task | None = None
    class_names: list[str] | None = None
    alone: bool = True


def wanted_targets(
    names: Sequence[str],
    given: Sequence[str],
    task: Task | None,
    tasks: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> list[Wanted]:
    """Parse the options that define targets.

    Parameters
    ----------
    names
        Columns of the table.
    given
        Columns of the single target ``y``; or, for several targets, ``NAME=COLUMN,COLUMN`` or a
        column for each.
    task
        Task of the targets.
    tasks, class_names
        ``NAME=TASK`` and ``NAME=CLASS`` for several targets; for one target the classes alone.

    Raises
    ------
    UsageError
        If an option has the wrong form, or a name is not that of a target.
    """
    found = columns_of(names, given)
    if len(found) == 1:
        if tasks:
            raise UsageError(f"--target-task {tasks[0]}: there is only one target; give --task")
        return [Wanted("y", next(iter(found.values())), task, [*class_names] or None)]
    own: dict[str, Task] = {}
    for text in tasks:
        name, _, kind = text.partition("=")
        if name not in found:
            raise UsageError(f"--target-task {text}: {name!r} is none of {listed(list(found))}")
        if kind not in get_args(Task):
            raise UsageError(f"--target-task {text}: {kind!r} is none of {listed(get_args(Task))}")
        own[name] = kind  # type: ignore[assignment]
    classes: dict[str, list[str]] = {}
    for text in class_names:
        name, sign, word = text.partition("=")
        if not sign or name not in found:
            raise UsageError(
                f"--class-name {text} must be TARGET=CLASS, because there are several targets: "
                f"{listed(list(found))}"
            )
        classes.setdefault(name, []).append(word)
    return [Wanted(n, of, own.get(n, task), classes.get(n), False) for n, of in found.items()]


def columns_of(names: Sequence[str], given: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of each target by its name; see :func:`wanted_targets`."""
    columns = set(names)
    if all(text in columns or "=" not in text for text in given):
        return {"y": list(given)}
    found: dict[str, list[str]] = {}
    for text in given:
        name, sign, rest = text.partition("=")
        if text in columns or not sign:
            name, rest = text, text
        if not name or not rest or not name.isprintable():
            raise UsageError(f"--target {text} must be COLUMN, or NAME=COLUMN,COLUMN")
        if name in found:
            raise UsageError(f"--target {text}: there is a target {name!r} already")
        found[name] = [rest] if rest in columns else rest.split(",")
    return found


@dataclass
class TableTarget:
    """A target of a table.

    Attributes
    ----------
    name, columns
        See :class:`Wanted`.
    target
        Description of the target for the manifest.
    spec
        Shape and type of its array.
    values
        Labels of the used rows of all tables, concatenated; ``None`` for numeric targets,
        which are read from the table.
    labels
        Labels of the rows of each split.
    notes
        Lines for the user.
    """

    name: str
    columns: list[str]
    target: Target
    spec: ArraySpec
    values: np.ndarray | None
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def read_columns(self, split: str) -> list[str]:
        """Return the columns of a split that :meth:`of` needs."""
        return [] if split in self.labels else self.columns

    def of(
        self, split: str, start: int, stop: int, columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return the array of items ``start .. stop - 1`` of a split from their columns."""
        if split in self.labels:
            return self.labels[split][start:stop]
        y = np.stack([columns[name] for name in self.columns], axis=1)
        return y.reshape(stop - start, *self.spec.shape)

    def deal(
        self,
        tables: Mapping[str, Table],
        kept: Mapping[str, np.ndarray],
        dealt: Mapping[str, np.ndarray],
    ) -> None:
        """Split the labels in the same way as the used rows."""
        if self.values is None:
            return
        found, begin = {}, 0
        for split in tables:
            found[split] = self.values[begin : begin + len(kept[split])]
            begin += len(kept[split])
        self.labels = {**found, **{split: found["train"][part] for split, part in dealt.items()}}
        if self.target.classes is not None:
            self.notes += unseen({s: v[v != UNKNOWN] for s, v in self.labels.items()})


def target_of(
    wanted: Wanted,
    tables: Mapping[str, Table],
    kept: Mapping[str, np.ndarray],
    survey: TableSurvey,
    *,
    how: How,
    normalize: bool,
    units: Mapping[str, str],
) -> TableTarget:
    """Build a target: its task, array and labels.

    Parameters
    ----------
    wanted
        The requested target.
    tables, kept
        Table of each split, and its used rows.
    survey
        Types and shapes found in the columns.
    how
        Treatment of missing values.
    normalize
        Whether numbers are standardised in training.
    units
        Units by column.

    Raises
    ------
    DataError
        If the values of the columns do not fit the task.
    """
    first, columns = tables["train"], wanted.columns
    try:
        found = _labels(wanted, tables, kept, survey, how)
    except DataError as e:
        if wanted.alone:
            raise
        line = str(e).replace("--task ", f"--target-task {wanted.name}=")
        raise DataError(line.replace("--class-name", f"--class-name {wanted.name}=CLASS")) from None
    shapes = [survey.shapes[c] for c in columns]
    if len(columns) > 1 and any(shapes):
        at = next(i for i, shape in enumerate(shapes) if shape)
        raise DataError(
            f"{first.path}: column {columns[at]!r} has lists, so it must be a target alone: "
            f"--target {columns[at]}, or --target NAME={columns[at]} beside other targets"
        )
    shape = [len(columns)] if len(columns) > 1 else list(shapes[0])
    kind = found.values.dtype if found is not None else _type(survey, columns)
    named = len(columns) > 1 or not shape
    task = found.task if found is not None else wanted.task or "regression"
    classes = None if found is None else found.classes
    gap: int | str | None = None
    if how == "keep":
        gap = "nan" if found is None else UNKNOWN
    names = None if found is None else found.class_names or first.class_names(columns[0])
    scaled = classes is None and (wanted.alone or task == "regression")
    return TableTarget(
        wanted.name,
        columns,
        Target.model_validate(
            {"task": task, "classes": classes, "class_names": names, "missing": gap}
            | {"normalize": normalize and scaled}
        ),
        ArraySpec.plan(
            shape, kind, names=columns if named else [], units=units_line(columns, units)
        ),
        None if found is None else found.values,
        notes=[] if found is None else found.notes,
    )


def _labels(
    wanted: Wanted,
    tables: Mapping[str, Table],
    kept: Mapping[str, np.ndarray],
    survey: TableSurvey,
    how: How,
) -> ItemTargets | None:
    """Return the labels of all tables, concatenated; ``None`` for numeric targets."""
    first, task, targets = tables["train"], wanted.task, wanted.columns
    if task in NUMBERS:
        return None
    kinds = [survey.kinds[name] for name in targets]
    if task is None and len(targets) > 1 and any(kind.kind not in "biu" for kind in kinds):
        return None
    columns = {
        name: np.concatenate([t.read([name], kept[s])[name] for s, t in tables.items()])
        for name in targets
    }
    names = wanted.class_names or first.class_names(targets[0])
    y = columns[targets[0]]
    known = ~missing(y) if how == "keep" and len(columns) == 1 else np.ones(len(y), bool)
    whole = all(t.whole(targets[0]) for t in tables.values())
    if whole and y.dtype.kind == "f" and not known.all():
        columns[targets[0]] = y = np.where(known, y, 0).astype(np.int64)
    where = str(first.path) if wanted.alone else f"{first.path}: {wanted.name}"
    if not known.any():
        raise DataError(f"{where}: column {targets[0]!r} has no values")
    if task is None and len(targets) > 1 and not are_flags(list(columns.values())):
        return None
    if task is None and len(targets) == 1 and y.dtype.kind not in "OSU" and names is None:
        of = y[known]
        if guess(where, {"train": (of, of)}) == "regression":
            return None
    found = targets_of({n: v[known] for n, v in columns.items()}, task, where, names)
    if known.all():
        return found
    values = np.full(len(y), UNKNOWN, found.values.dtype)
    values[known] = found.values
    return replace(found, values=values)


def _type(survey: TableSurvey, columns: Sequence[str]) -> np.dtype:
    kind = np.result_type(*(survey.kinds[c] for c in columns))
    return kind if kind.kind == "f" and kind.itemsize in (4, 8) else np.dtype("<f8")
