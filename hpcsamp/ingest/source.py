"""Base class of data sources, and random splits for sources without their own splits."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.roles import Inputs, Kind, Missing, Target
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import UsageError
from hpcsamp.streams import Purpose, numpy_generator


@dataclass
class Source(ABC):
    """Base class of data sources: items that any rank can read by split and range.

    Subclasses implement :meth:`read`; the attributes describe the items.

    Attributes
    ----------
    name
        Short name of the dataset.
    task, classes, class_names, inputs, normalize_y, missing, targets
        See :class:`~hpcsamp.data.manifest.Manifest`.
    arrays
        Arrays by name: ``x`` and ``y``, or several inputs and targets.
    splits
        Number of items of each split, in the order in which shards are numbered.
    source
        Origin of the data: ``url``, ``file``, ``sha256``, ... It is part of the dataset's identity.
    meaning
        See :class:`~hpcsamp.data.manifest.Manifest`.
    licence, transforms
        Terms of use; processing steps of the data, in order.
    coords
        Coordinates, see :class:`~hpcsamp.data.shard.Coordinate`.
    report
        Lines that the ingest command prints (gaps filled, rows dropped).
    """

    #: Target size of a shard, in MB.
    shard_mb: ClassVar[float] = 256

    name: str
    task: str
    arrays: dict[str, ArraySpec]
    splits: dict[str, int]
    classes: int | None = None
    class_names: list[str] | None = None
    inputs: Inputs | dict[str, Kind] = "numbers"
    normalize_y: bool = False
    missing: Missing | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    meaning: dict[str, dict[str, str]] = field(default_factory=dict)
    licence: str = ""
    transforms: list[str] = field(default_factory=list)
    coords: dict[str, Coordinate] = field(default_factory=dict)
    report: list[str] = field(default_factory=list)

    @abstractmethod
    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """Read items ``start .. stop - 1`` of a split: arrays and per-item coordinates by name.

        Raises
        ------
        DataError
            If they cannot be read; the message names the file, item or variable.
        """

    @property
    def after(self) -> np.timedelta64 | None:
        """Time from the input of an item to its target; None if it is unknown."""
        amount, _, unit = self.meaning.get("y", {}).get("lead", "").partition(" ")
        return np.timedelta64(round(float(amount) * 3600), "s") if unit == "h" else None

    def content(self) -> str:
        """Return a digest of the items, or "" if :attr:`source` and the shapes identify them."""
        return ""


@dataclass
class ArraySource(Source):
    """A source whose items are in memory.

    Attributes
    ----------
    items
        ``x``, ``y`` and per-item coordinates of each split.
    """

    items: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def read(self, split: str, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """See :class:`Source`."""
        return {name: values[start:stop] for name, values in self.items[split].items()}

    def content(self) -> str:
        """See :class:`Source`; arrays in memory are digested unless they come from a known file."""
        if "sha256" in self.source:
            return ""
        items = (values for split in self.splits for _, values in sorted(self.items[split].items()))
        axes = json.dumps(
            {n: np.asarray(c.values).tolist() for n, c in sorted(self.coords.items())}
        )
        return digest(*items, np.frombuffer(axes.encode(), np.uint8))


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of types, shapes and bytes of arrays."""
    found = hashlib.sha256()
    for values in arrays:
        found.update(f"{values.dtype.str}{values.shape}".encode())
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


def check_once(files: Iterable[str | Path]) -> None:
    """Refuse a file that is given twice, because its items would be in the dataset twice.

    Raises
    ------
    UsageError
        If a file is given twice; the message names it.
    """
    known: set[str] = set()
    for file in files:
        own = str(file) if "://" in str(file) else str(Path(file).resolve())
        if own in known:
            raise UsageError(f"{file} is given twice, so its items would be in the dataset twice")
        known.add(own)


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Refuse fractions of splits that are negative or leave nothing for ``train``.

    Raises
    ------
    UsageError
        If they are invalid; the message names the fractions and their sum.
    """
    total = sum(fractions.values())
    if not (total < 1 and all(part >= 0 for part in fractions.values())):
        raise UsageError(
            f"splits {dict(fractions)} take {total:g} of the items; "
            "each must be at least 0, and together less than 1"
        )


def split_items(
    count: int,
    fractions: Mapping[str, float],
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Split items at random, stratified by class if there are labels.

    Parameters
    ----------
    count
        Number of items.
    fractions
        Fraction of each split except ``train``, which gets the rest.
    labels
        Classes, shape ``(count,)``, or ``None``.
    seed
        Seed of the random permutation.

    Returns
    -------
    dict
        Ascending item numbers of every split that is not empty.

    Raises
    ------
    UsageError
        If the fractions leave nothing for ``train``.
    """
    check_fractions(fractions)
    generator = numpy_generator(seed, Purpose.SPLIT)
    rest = 1 - sum(fractions.values())
    names = ["train", *fractions]
    ends = np.cumsum([rest, *fractions.values()])
    dealt: dict[str, list[np.ndarray]] = {name: [] for name in names}
    classes: Sequence[Any] = [None] if labels is None else list(np.unique(labels))
    for label in classes:
        members = np.arange(count) if labels is None else np.flatnonzero(labels == label)
        members = generator.permutation(members)
        cuts = np.floor(ends * len(members) + 0.5).astype(int)
        cuts[-1] = len(members)
        for name, low, high in zip(names, [0, *cuts[:-1]], cuts, strict=True):
            dealt[name].append(members[low:high])
    found = {name: np.sort(np.concatenate(parts)) for name, parts in dealt.items()}
    return {name: members for name, members in found.items() if len(members)}
