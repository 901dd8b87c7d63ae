"""Ingest tar archives of images in webdataset format: NAME.jpg with NAME.cls or NAME.json."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS
from hpcsamp.ingest.arrow_files import split_of_names
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.division import Rule, divide
from hpcsamp.ingest.images import COLOURS
from hpcsamp.ingest.labels import targets_of, unseen
from hpcsamp.ingest.numbers import numbers_or_words
from hpcsamp.ingest.pictures import ENDINGS, Pictures
from hpcsamp.ingest.source import Source, check_once
from hpcsamp.names import Task


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    archive
        The archive.
    name
        Name in the archive.
    offset, size
        Position and number of its bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    @property
    def where(self) -> str:
        """Name of the file in messages."""
        return f"{self.archive}: {self.name}"

    def bytes(self) -> bytes:
        """Read the content of the file.

        Raises
        ------
        DataError
            If the archive is truncated.
        """
        with self.archive.open("rb") as f:
            f.seek(self.offset)
            found = f.read(self.size)
        if len(found) < self.size:
            raise DataError(f"{self.where}: the archive ends inside this file")
        return found


@dataclass
class Archives(Source):
    """Images in archives, which are decoded when they are read.

    Attributes
    ----------
    pictures
        Options for reading images.
    members
        Images of each split, in order.
    values
        Targets of each split.
    """

    pictures: Pictures = field(default_factory=Pictures)
    members: dict[str, list[Member]] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        members = self.members[split][start:stop]
        x = np.empty((len(members), *self.arrays["x"].shape), self.arrays["x"].dtype)
        for i, member in enumerate(members):
            image = _image(self.pictures, member)
            if image.shape != x[i].shape or image.dtype != x.dtype:
                raise DataError(
                    f"{member.where}: the image is {image.shape} {image.dtype}, but the first is "
                    f"{x[i].shape} {x.dtype}; give --size and --colour"
                )
            x[i] = image
        return {"x": x, "y": self.values[split][start:stop]}


def tar(
    files: Annotated[Sequence[str | Path], Asked("Archives in order.", "files", kind=list[Path])],
    *,
    pictures: Pictures | None = None,
    label: Annotated[
        Sequence[str], Asked("Target key of NAME.json; NAME.cls needs none.", "--label")
    ] = (),
    task: Annotated[Task | None, Asked("Task; by default it follows from the type of y.")] = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> Archives:
    """Read tar archives of images in webdataset format: NAME.jpg with NAME.cls or NAME.json.

    Archives are not unpacked. If all names of archives begin with a split (``train-000.tar``), they
    define the splits.

    Parameters
    ----------
    files
        Uncompressed archives.
    pictures
        Options for reading images.
    label
        Keys of ``NAME.json`` that are targets.
    task
        Task. By default words and whole numbers with few different values are classes.
    fractions, seed, rule
        Fractions, seed and rule of the splits.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    UsageError
        If the target key of json files is ambiguous.
    DataError
        If a file cannot be used; the message names the archive and the file.

    Examples
    --------
    hpcsamp ingest tar train-000.tar train-001.tar --out data/photos

    hpcsamp ingest tar photos.tar --label age --task regression --out data/ages
    """
    pictures = pictures or Pictures()
    paths = [Path(f) for f in files]
    check_once(paths)
    items: list[tuple[str, Member, dict[str, Member]]] = []
    splits = split_of_names(paths) or dict.fromkeys(paths, "train")
    for path in paths:
        items += [(splits[path], image, beside) for image, beside in _items(path)]
    if not items:
        raise DataError(f"{paths[0]} has no images ({', '.join(ENDINGS)})")
    columns: dict[str, list[Any]] = {}
    for _, image, beside in items:
        for name, value in _labels(image, beside, label).items():
            columns.setdefault(name, []).append(value)
    arrays = {name: _column(name, values, items) for name, values in columns.items()}
    found = targets_of(arrays, task, str(paths[0]))
    of_split = np.asarray([split for split, _, _ in items])
    if len(set(splits.values())) > 1:
        if rule is not None and (rule.columns or rule.chronological):
            raise UsageError(
                f"{paths[0]}: names of archives define the splits, so leave out --split-column, "
                f"--chronological and --group"
            )
        parts = {s: np.flatnonzero(of_split == s) for s in ("train", "valid", "test")}
        parts = {s: rows for s, rows in parts.items() if len(rows)}
        notes = ["splits as the archives are named"]
    else:
        parts, notes = divide(
            len(items),
            fractions,
            seed,
            rule,
            None,
            labels=found.values if found.classes is not None else None,
            where=str(paths[0]),
        )
    report = list(found.notes)
    if found.classes is not None:
        report += unseen({split: found.values[rows] for split, rows in parts.items()})
    first = _image(pictures, items[parts["train"][0]][1])
    return Archives(
        name=paths[0].stem,
        task=found.task,
        classes=found.classes,
        class_names=found.class_names,
        normalize_y=normalize_y and found.classes is None,
        arrays={
            "x": ArraySpec.plan(first.shape, first.dtype, names=COLOURS.get(len(first), ())),
            "y": ArraySpec.plan(found.values.shape[1:], found.values.dtype, names=found.names),
        },
        splits={split: len(rows) for split, rows in parts.items()},
        source={
            "file": ", ".join(p.name for p in paths[:10]) + ", ..." * (len(paths) > 10),
            "sha256": ", ".join(sha256(p) for p in paths),
        },
        transforms=[
            *([f"resized to {pictures.size[0]} x {pictures.size[1]}"] if pictures.size else []),
            *([f"converted to {pictures.colour}"] if pictures.colour else []),
            *notes,
        ],
        report=report,
        pictures=pictures,
        members={s: [items[i][1] for i in rows.tolist()] for s, rows in parts.items()},
        values={s: found.values[rows] for s, rows in parts.items()},
    )


def _items(path: Path) -> list[tuple[Member, dict[str, Member]]]:
    """Return the images of an archive, each with the other files of the same name."""
    groups: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise DataError(f"{path}: {info.name} is not a plain file")
                folder, _, name = info.name.rpartition("/")
                key, dot, ending = name.partition(".")
                if not key or not dot:
                    continue
                group = groups.setdefault(f"{folder}/{key}", {})
                if ending.lower() in group:
                    raise DataError(f"{path}: {info.name} occurs twice")
                group[ending.lower()] = Member(path, info.name, info.offset_data, info.size)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (tarfile.TarError, OSError, EOFError) as e:
        hint = "; unpack compressed archives first" if path.suffix in (".gz", ".xz", ".bz2", ".tgz",
                                                                       ".zst") else ""  # fmt: skip
        raise DataError(f"{path}: not a complete tar archive: {e}{hint}") from None
    found = []
    for key, group in groups.items():
        images = [ending for ending in group if f".{ending}" in ENDINGS]
        if len(images) > 1:
            raise DataError(
                f"{path}: {key.lstrip('/')} has {len(images)} images, .{images[0]} and .{images[1]}"
            )
        if images:
            found.append((group[images[0]], {e: m for e, m in group.items() if e != images[0]}))
        elif group.keys() & {"cls", "json"}:
            raise DataError(f"{path}: {key.lstrip('/')} has a label but no image")
    return found


def _labels(image: Member, beside: Mapping[str, Member], keys: Sequence[str]) -> dict[str, Any]:
    """Return the targets of an item by name."""
    if not keys:
        if "cls" in beside:
            text = beside["cls"].bytes().decode("utf-8", "replace").strip()
            return {"cls": text}
        values = _json(beside, image)
        usual = [k for k in ("label", "cls", "class", "target") if k in values]
        if len(usual) != 1:
            raise UsageError(
                f"{beside['json'].where}: the target is ambiguous; choose its key with --label: "
                f"{', '.join(list(values)[:20])}"
            )
        return {usual[0]: values[usual[0]]}
    values = _json(beside, image)
    for key in keys:
        if key not in values:
            raise DataError(
                f"{beside['json'].where} has no key {key!r}, only {', '.join(list(values)[:20])}"
            )
    return {key: values[key] for key in keys}


def _json(beside: Mapping[str, Member], image: Member) -> dict[str, Any]:
    if "json" not in beside:
        raise DataError(f"{image.where} has no label, neither .cls nor .json")
    try:
        found = json.loads(beside["json"].bytes())
    except ValueError as e:
        raise DataError(f"{beside['json'].where} is not valid JSON: {e}") from None
    if not isinstance(found, dict):
        raise DataError(f"{beside['json'].where} is not a JSON object of keys and values")
    return found


def _column(
    name: str, values: list[Any], items: Sequence[tuple[str, Member, dict[str, Member]]]
) -> np.ndarray:
    """Convert the targets of all items to numbers or words."""
    for value, (_, image, _) in zip(values, items, strict=False):
        if not isinstance(value, str | int | float) or value == "":
            raise DataError(f"{image.where}: {name} is {str(value)[:40]!r}, not a number or word")
    if len(values) < len(items):
        raise DataError(
            f"{items[0][1].archive}: only {len(values)} of {len(items)} items have {name}"
        )
    if all(isinstance(value, str) for value in values):
        return numbers_or_words(values)
    if any(isinstance(value, str) for value in values):
        return np.asarray([str(value) for value in values], object)
    found = np.asarray(values)
    return found.astype(np.int64) if found.dtype.kind == "b" else found


def _image(pictures: Pictures, member: Member) -> np.ndarray:
    return pictures.read(member.bytes(), member.where, member.name.lower().endswith(".npy"))
