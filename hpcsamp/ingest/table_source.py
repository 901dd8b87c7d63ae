"""Build a source from tables of any format: choose and encode columns, and split rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.roles import RESERVED, WEIGHT, Inputs
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.choice import check_named, choose
from hpcsamp.ingest.division import Rule, divide
from hpcsamp.ingest.encoding import (
    Category,
    Date,
    Encoded,
    Number,
    read_dates,
    read_units,
)
from hpcsamp.ingest.groups import ColumnGroup, groups_of
from hpcsamp.ingest.like import read_like
from hpcsamp.ingest.pictures import Pictures
from hpcsamp.ingest.preparation import (
    How,
    Preparation,
    lines_of,
    source_of,
    transforms_of,
)
from hpcsamp.ingest.source import Source, check_once
from hpcsamp.ingest.survey import TableSurvey, blocks
from hpcsamp.ingest.table import Role, Table
from hpcsamp.ingest.table_targets import NUMBERS, TableTarget, target_of, wanted_targets
from hpcsamp.ingest.texts import read_tokenizer
from hpcsamp.names import Task


@dataclass
class TableSource(Source):
    """Items that are rows of tables.

    Attributes
    ----------
    tables
        Tables by split; a split without its own table takes rows of ``train``.
    rows
        Ascending row numbers of each split in its table.
    groups
        Inputs, each a group of columns.
    aims
        Targets.
    weights
        Column with the weights of the items, if there is one.
    pictures
        Options for reading images in a column.
    """

    tables: dict[str, Table] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    groups: list[ColumnGroup] = field(default_factory=list)
    aims: list[TableTarget] = field(default_factory=list)
    weights: str | None = None
    pictures: Pictures = field(default_factory=Pictures)

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        table = self.tables.get(split, self.tables["train"])
        rows = self.rows[split][start:stop]
        own = [column for target in self.aims for column in target.read_columns(split)]
        own = own if self.weights is None else [*own, self.weights]
        columns = [f.column for group in self.groups for f in group.features]
        values = table.read([*columns, *own], rows)
        found = {g.name: g.of(values, rows, table, self.pictures) for g in self.groups}
        found |= {t.name: t.of(split, start, stop, values) for t in self.aims}
        if self.weights is not None:
            found[WEIGHT] = values[self.weights].astype(np.float64)
        return found


def from_tables(
    tables: Mapping[str, Table],
    targets: Sequence[str],
    *,
    name: str,
    features: Sequence[str] = (),
    preparation: Preparation | None = None,
    pictures: Pictures | None = None,
    task: Task | None = None,
    fractions: Mapping[str, float],
    seed: int = 0,
    rule: Rule | None = None,
    normalize_y: bool = False,
) -> TableSource:
    """Build a source from tables by split; splits without a table are taken from ``train``.

    Parameters
    ----------
    tables
        Tables of ``train`` and optionally ``valid`` and ``test``.
    targets
        Columns of ``y``; or several targets, each ``NAME=COLUMN,COLUMN`` or a column.
    features
        Columns of ``x``; by default all other columns.
    name
        Name of the set.
    preparation
        Options for encoding columns.
    task
        Task of the targets that ``preparation`` does not list; by default it follows from their
        type.
    fractions, seed, rule
        How to split ``train``; see :func:`~hpcsamp.ingest.division.divide`.

    Raises
    ------
    UsageError
        If a column does not exist, or needs an option for its encoding.
    DataError
        If a value cannot be used; the message names its row and column.
    """
    made, rule = preparation or Preparation(), rule or Rule()
    first, units = tables["train"], read_units(made.unit)
    check_once(file for table in tables.values() for file in table.files)
    like = None if made.like is None else read_like(made.like, targets, features)
    if like is None:
        wanted = wanted_targets(first.names, targets, task, made.target_task, made.class_name)
        columns = [column for one in wanted for column in one.columns]
        check_named(first.path, first.names, [*units, *rule.columns])
        encoded = _encoded(first, columns, features, made, rule)
    else:
        if made.drop or made.date or made.onehot or made.ids or made.target_task or made.class_name:
            raise UsageError(
                f"--like {made.like} defines how columns are encoded: leave out --drop, --date, "
                f"--onehot, --ids, --target-task and --class-name"
            )
        encoded, wanted = like.features, like.targets
        columns = [column for one in wanted for column in one.columns]
        units = like.units | units
        check_named(first.path, first.names, [*(f.column for f in encoded), *columns])
    roles: dict[str, Role] = {f.column: f.role for f in encoded}
    for one in wanted:
        roles |= dict.fromkeys(one.columns, "number" if one.task in NUMBERS else "any")
    for column in rule.columns:
        roles.setdefault(column, "any")
    if made.weight is not None:
        check_named(first.path, first.names, [made.weight])
        roles[made.weight] = "number"
    survey = TableSurvey(encoded, columns)
    for table in tables.values():
        lacking = sorted(roles.keys() - set(table.names))
        if lacking:
            raise DataError(f"{table.path} has no column {lacking[0]!r}, but {first.path} has one")
        table.targets = columns
        table.prepare(roles)
        survey.look(table)
    encoded = _categories(survey)
    report = [*_left_out(first, roles), *survey.suspicions]
    kept = {}
    for at, (split, table) in enumerate(tables.items()):
        kept[split], line = _kept(table, survey, at, made.missing)
        report += line
    aims = [
        target_of(one, tables, kept, survey, how=made.missing, normalize=normalize_y, units=units)
        for one in wanted
    ]
    only = aims[0] if len(aims) == 1 else None
    labels = None if only is None or only.values is None else only.values[: len(kept["train"])]
    dealt, notes = divide(
        len(kept["train"]),
        {s: part for s, part in fractions.items() if s not in tables},
        seed,
        rule,
        lambda column: _of_rule(first, column, kept["train"], rule),
        labels=labels if labels is not None and labels.ndim == 1 else None,
        where=str(first.path),
    )
    rows = {split: kept["train"][part] for split, part in dealt.items()}
    rows |= {split: kept[split] for split in tables if split != "train"}
    for target in aims:
        target.deal(tables, kept, dealt)
        report += target.notes
    if made.missing in ("mean", "keep") and like is None:
        _fill(encoded, first, rows["train"], survey)
    report += _filled(encoded, survey, made.missing)
    groups = groups_of(first, encoded, survey, units, pictures or Pictures(), rows["train"])
    plain = [g.name for g in groups] == ["x"]
    report += lines_of(encoded)
    _check_names(first, aims, groups)
    return TableSource(
        name=name,
        task="several" if only is None else only.target.task,
        classes=None if only is None else only.target.classes,
        class_names=None if only is None else only.target.class_names,
        inputs=_kind(groups[0]) if plain else {g.name: g.kind for g in groups},
        normalize_y=only is not None and only.target.normalize,
        missing=None if only is None else only.target.missing,
        targets={} if only is not None else {t.name: t.target for t in aims},
        arrays={
            **{g.name: g.spec for g in groups},
            **{t.name: t.spec for t in aims},
            **({} if made.weight is None else {WEIGHT: ArraySpec.plan((), "<f8")}),
        },
        splits={s: len(rows[s]) for s in ("train", "valid", "test") if s in rows},
        source=source_of(
            tables, encoded, {t.name: t.columns for t in aims} if only is None else columns
        ),
        meaning={g.name: g.meaning() for g in groups if g.meaning()},
        transforms=[*notes, *transforms_of(encoded, made)],
        report=report,
        tables=dict(tables),
        rows=rows,
        groups=groups,
        aims=aims,
        weights=made.weight,
        pictures=pictures or Pictures(),
    )


def _kind(group: ColumnGroup) -> Inputs:
    return "ids" if group.kind == "ids" else "numbers"


def _encoded(
    table: Table,
    targets: Sequence[str],
    features: Sequence[str],
    made: Preparation,
    rule: Rule,
) -> list[Encoded]:
    """Choose the encoding of each feature from the options."""
    dates = read_dates(made.date)
    if (made.text is None) != (made.tokenizer is None):
        raise UsageError("--text, a column, and --tokenizer, its tokenizer, must be given together")
    asked = {*dates, *made.onehot, *made.ids, *([] if made.text is None else [made.text])}
    check_named(table.path, table.names, [*made.drop, *asked])
    others = [*rule.columns, *([] if made.weight is None else [made.weight]), *table.index()]
    away = [*made.drop, *(c for c in others if c not in asked)]
    chosen = choose(table.path, table.names, targets, features, away)
    for column in asked:
        if column not in chosen:
            raise UsageError(f"column {column!r} is not a feature, so it cannot be encoded")
    encoded: list[Encoded] = []
    for column in chosen:
        if column == made.text and made.tokenizer is not None:
            encoded.append(read_tokenizer(column, made.tokenizer, made.tokens))
        elif column in dates:
            encoded.append(Date(column, dates[column]))
        elif column in made.onehot or column in made.ids:
            encoded.append(Category(column, ids=column in made.ids))
        else:
            encoded.append(Number(column))
    return encoded


def _left_out(table: Table, used: Collection[str]) -> list[str]:
    """Return a line about each pandas index column that is not used."""
    return [
        f"column {name!r} is the index of a pandas table and is left out; --feature includes it"
        for name in table.index()
        if name not in used
    ]


def _of_rule(table: Table, column: str, rows: np.ndarray, rule: Rule) -> np.ndarray:
    """Read the column of a split rule; text columns that order rows are parsed as times."""
    values = table.read([column], rows)[column]
    if column == rule.chronological and values.dtype.kind == "O":
        return table.times(column, values)
    return values


def _kept(table: Table, survey: TableSurvey, at: int, how: How) -> tuple[np.ndarray, list[str]]:
    """Return the rows of a table that are used, and a line about those that are left out."""
    x, y = survey.lacking_x[at], survey.lacking_y[at]
    gone = x | y
    if how == "refuse" and gone.any():
        row = int(np.flatnonzero(gone)[0])
        raise DataError(
            f"{table.path}: {table.row(row)}, column {survey.first[at]!r}: a value is missing (in "
            f"{int(gone.sum())} of {len(gone)} rows); --missing drop leaves these rows out, mean "
            "replaces missing features by the mean of train, keep also keeps missing targets"
        )
    gone = {"mean": y, "keep": np.zeros(len(y), bool)}.get(how, gone)
    if not gone.any():
        return np.arange(len(gone)), []
    if gone.all():
        raise DataError(f"{table.path}: each of the {len(gone)} rows has a missing value")
    return np.flatnonzero(~gone), [
        f"{int(gone.sum())} of {len(gone)} rows have missing values and are left out; the first is "
        f"{table.row(int(np.flatnonzero(gone)[0]))}"
    ]


def _categories(survey: TableSurvey) -> list[Encoded]:
    """Return the features, with the categories that were found in their columns."""
    for feature in survey.features:
        if isinstance(feature, Category) and feature.words is None:
            words = survey.words.get(feature.column, set())
            whole = survey.kinds[feature.column].kind in "biuf"
            if not (feature.ids and whole):
                feature.words = sorted(words, key=int) if whole else sorted(words)
    return survey.features


def _check_names(
    table: Table, targets: Sequence[TableTarget], groups: Sequence[ColumnGroup]
) -> None:
    """Refuse targets that have the name of an input or a reserved name."""
    for target in targets:
        if target.name in RESERVED | {g.name for g in groups} or "/" in target.name:
            raise UsageError(
                f"{table.path}: a target cannot be called {target.name!r}; give --target "
                f"NAME={','.join(target.columns)} with another name"
            )


def _filled(encoded: Sequence[Encoded], survey: TableSurvey, how: How) -> list[str]:
    """Return a line on each feature in which missing values are replaced."""
    if how not in ("mean", "keep"):
        return []
    lines = []
    for feature in encoded:
        every, known = survey.gaps.get(feature.column, (0, 0))
        count = every if how == "keep" else known
        if count and isinstance(feature, Number) and feature.fill is not None:
            lines.append(
                f"column {feature.column!r}: {count} missing values are replaced by "
                f"{feature.fill:.5g}, the mean of train"
            )
        elif count and isinstance(feature, Category) and not feature.ids:
            lines.append(
                f"column {feature.column!r}: {count} missing categories are encoded as none of "
                f"the categories"
            )
    return lines


def _fill(encoded: Sequence[Encoded], table: Table, rows: np.ndarray, survey: TableSurvey) -> None:
    """Set the fill value of numeric features with missing values to their mean over train."""
    numbers = [f for f in encoded if type(f) is Number and survey.kinds[f.column].kind == "f"]
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers), np.int64)
    lacks = np.zeros(len(numbers), bool)
    for block in blocks(len(rows), len(numbers)):
        values = table.read([f.column for f in numbers], rows[block])
        for i, feature in enumerate(numbers):
            column = values[feature.column].astype(np.float64)
            known = ~np.isnan(column)
            sums[i] += column[known].sum()
            counts[i] += known.sum()
            lacks[i] |= not known.all()
    for i, feature in enumerate(numbers):
        if not counts[i]:
            raise DataError(f"{table.path}: column {feature.column!r} has no values in train")
        feature.fill = float(sums[i] / counts[i])
