"""Archives of images as webdataset writes them: NAME.jpg beside NAME.cls or NAME.json."""

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
        In it.
    offset, size
        Its bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{self.archive}: {self.name}"

    def bytes(self) -> bytes:
        """Its content.

        Raises
        ------
        DataError
            If the archive ends before.
        """
        with self.archive.open("rb") as f:
            f.seek(self.offset)
            found = f.read(self.size)
        if len(found) < self.size:
            raise DataError(f"{self.where}: the archive ends inside it")
        return found


@dataclass
class Archives(Source):
    """Images in archives, decoded when they are read.

    Attributes
    ----------
    pictures
        How images are read.
    members
        By split: the images in order.
    values
        By split: their targets.
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
                    f"{member.where}: its image is {image.shape} {image.dtype}, the first is "
                    f"{x[i].shape} {x.dtype}; give --size and --colour"
                )
            x[i] = image
        return {"x": x, "y": self.values[split][start:stop]}


def tar(
    files: Annotated[Sequence[str | Path], Asked("Archives, in order.", "files", kind=list[Path])],
    *,
    pictures: Pictures | None = None,
    label: Annotated[
        Sequence[str], Asked("Key of NAME.json that is a target; NAME.cls needs none.", "--label")
    ] = (),
    task: Annotated[Task | None, Asked("What labels are; by default their type decides.")] = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> Archives:
    """Tar archives of images as webdataset writes them: NAME.jpg beside NAME.cls or NAME.json.

    Archives are not unpacked. If the names of all begin with a split (``train-000.tar``), these are
    the splits.

    Parameters
    ----------
    files
        Archives without compression.
    pictures
        How images are read.
    label
        Keys of ``NAME.json`` that are targets.
    task
        What targets are. By default words and whole numbers of few values are classes.
    fractions, seed, rule
        How items are dealt to splits.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    UsageError
        If it is not told which key of a json file is the target.
    DataError
        Naming archive and member of what cannot be used.
    """
    pictures = pictures or Pictures()
    paths = [Path(f) for f in files]
    check_once(paths)
    items: list[tuple[str, Member, dict[str, Member]]] = []
    splits = split_of_names(paths) or dict.fromkeys(paths, "train")
    for path in paths:
        items += [(splits[path], image, beside) for image, beside in _items(path)]
    if not items:
        raise DataError(f"{paths[0]}: holds no images ({', '.join(ENDINGS)})")
    columns: dict[str, list[Any]] = {}
    for _, image, beside in items:
        for name, value in _labels(image, beside, label).items():
            columns.setdefault(name, []).append(value)
    arrays = {name: _column(name, values, items) for name, values in columns.items()}
    found = targets_of(arrays, task, str(paths[0]))
    of_split = np.asarray([split for split, _, _ in items])
    if len(set(splits.values())) > 1:
        if rule is not None and (rule.columns or rule.chronological):
            raise UsageError(f"{paths[0]}: names of archives name the splits; no other rule can")
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
    """Images of an archive, each with the files of the same name."""
    groups: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise DataError(f"{path}: {info.name} is no plain file")
                folder, _, name = info.name.rpartition("/")
                key, dot, ending = name.partition(".")
                if not key or not dot:
                    continue
                group = groups.setdefault(f"{folder}/{key}", {})
                if ending.lower() in group:
                    raise DataError(f"{path}: {info.name} comes twice")
                group[ending.lower()] = Member(path, info.name, info.offset_data, info.size)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (tarfile.TarError, OSError, EOFError) as e:
        told = "; unpack compressed archives first" if path.suffix in (".gz", ".xz", ".bz2", ".tgz",
                                                                       ".zst") else ""  # fmt: skip
        raise DataError(f"{path}: not a whole tar archive: {e}{told}") from None
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
    """The targets of an item by name."""
    if not keys:
        if "cls" in beside:
            text = beside["cls"].bytes().decode("utf-8", "replace").strip()
            return {"cls": text}
        told = _json(beside, image)
        usual = [k for k in ("label", "cls", "class", "target") if k in told]
        if len(usual) != 1:
            raise UsageError(
                f"{beside['json'].where}: which key is the target? Give --label, one of "
                f"{', '.join(list(told)[:20])}"
            )
        return {usual[0]: told[usual[0]]}
    told = _json(beside, image)
    for key in keys:
        if key not in told:
            raise DataError(
                f"{beside['json'].where}: has no {key!r}, only {', '.join(list(told)[:20])}"
            )
    return {key: told[key] for key in keys}


def _json(beside: Mapping[str, Member], image: Member) -> dict[str, Any]:
    if "json" not in beside:
        raise DataError(f"{image.where}: has no label, neither .cls nor .json")
    try:
        found = json.loads(beside["json"].bytes())
    except ValueError as e:
        raise DataError(f"{beside['json'].where}: is no JSON: {e}") from None
    if not isinstance(found, dict):
        raise DataError(f"{beside['json'].where}: is no table of keys and values")
    return found


def _column(
    name: str, values: list[Any], items: Sequence[tuple[str, Member, dict[str, Member]]]
) -> np.ndarray:
    """Targets of all items as numbers, or words."""
    for value, (_, image, _) in zip(values, items, strict=False):
        if not isinstance(value, str | int | float) or value == "":
            raise DataError(f"{image.where}: its {name} is {str(value)[:40]!r}, no number or word")
    if len(values) < len(items):
        raise DataError(f"{items[0][1].archive}: {len(values)} of {len(items)} items have {name}")
    if all(isinstance(value, str) for value in values):
        return numbers_or_words(values)
    if any(isinstance(value, str) for value in values):
        return np.asarray([str(value) for value in values], object)
    found = np.asarray(values)
    return found.astype(np.int64) if found.dtype.kind == "b" else found


def _image(pictures: Pictures, member: Member) -> np.ndarray:
    return pictures.read(member.bytes(), member.where, member.name.lower().endswith(".npy"))
