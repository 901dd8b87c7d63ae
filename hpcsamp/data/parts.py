"""Parts of items: what each model rank is given of a batch, and which ranks need the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.data.cuts import Cutter
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.slabs import Box, shape_of, slices, whole
from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import Part

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcsamp.grid import Topology

MORE = 1.1
"""Bytes read over bytes needed above which a user is told that another storage would read less."""

AnyBox = Part | Sequence[Any]
"""A part, or a ``(start, stop)``, a slice or ``None`` (all of it) for each axis of an item."""

Given = AnyBox | Mapping[str, AnyBox | None]
"""A box of the only input, or boxes by the name of their array."""


@dataclass(frozen=True)
class Parts:
    """The boxes of a rank.

    Attributes
    ----------
    boxes
        By array: what a batch has of every item, in the order in which a network sees its axes.
    stored
        The same as places on disk.
    order
        By array and axis: at which position of what is read each entry of a batch is, where that
        is another order.
    """

    boxes: dict[str, Box]
    stored: dict[str, Box]
    order: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def slices(self, array: str) -> tuple[slice, ...]:
        """What to take of an item as it is on disk."""
        return slices(self.stored[array])

    def rows(self, array: str) -> slice:
        """Rows of an array (channels, features) that a batch has; all of one without axes."""
        box = self.boxes[array]
        return slice(*box[0]) if box else slice(None)

    def cut(self, dataset: Dataset) -> list[str]:
        """Names of the arrays of which a batch has less than all."""
        arrays = dataset.manifest.arrays
        return [n for n, box in self.boxes.items() if shape_of(box) != tuple(arrays[n].shape)]


def parts_of(given: Given | None, dataset: Dataset) -> Parts:
    """The boxes that a rank was given, checked; arrays that are not named are whole.

    Raises
    ------
    UsageError
        Naming the array, the axis and both numbers.
    """
    arrays = dataset.manifest.arrays
    boxes = {name: whole(spec.shape) for name, spec in arrays.items()}
    for name, told in _by_name(given, dataset).items():
        if name not in arrays:
            raise UsageError(f"part of {name!r}: {dataset.path} has the arrays {', '.join(arrays)}")
        if told is not None:
            boxes[name] = _box(name, told, tuple(arrays[name].shape))
    stored, order = {}, {}
    for name, box in boxes.items():
        stored[name], moved = _on_disk(box, dataset.order.get(name, {}))
        if moved:
            order[name] = moved
    return Parts(boxes, stored, order)


def _by_name(given: Given | None, dataset: Dataset) -> Mapping[str, AnyBox | None]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    if dataset.has_several_inputs:
        raise UsageError(
            f"{dataset.path} has the inputs {', '.join(dataset.kinds)}: give their parts by name"
        )
    return {"x": given}


def _box(name: str, told: AnyBox, shape: tuple[int, ...]) -> Box:
    of = getattr(told, "shape", None)
    if of is not None and tuple(of) != shape:
        raise UsageError(f"part of {name}: it is one of {tuple(of)}, items are {shape}")
    axes: list[Any] = list(told if isinstance(told, Sequence) else told.box)
    if len(axes) != len(shape):
        raise UsageError(f"part of {name}: {len(axes)} axes were given, items are {shape}")
    found = []
    for axis, (want, length) in enumerate(zip(axes, shape, strict=True)):
        if isinstance(want, slice) and want.step in (None, 1):
            want = (want.start or 0, length if want.stop is None else want.stop)
        try:
            start, stop = (0, length) if want is None else (int(want[0]), int(want[1]))
        except (TypeError, ValueError, IndexError):
            raise UsageError(
                f"part of {name}: {want!r} for axis {axis} is no start and stop"
            ) from None
        if not 0 <= start <= stop <= length:
            raise UsageError(
                f"part of {name}: {start}:{stop} is not within axis {axis}, whose length is "
                f"{length}"
            )
        found.append((start, stop))
    return tuple(found)


def _on_disk(box: Box, order: Mapping[int, np.ndarray]) -> tuple[Box, dict[int, np.ndarray]]:
    """The box that holds all entries of a box on disk, and where they are in it."""
    stored, moved = list(box), {}
    for axis, places in order.items():
        own = np.asarray(places, np.int64)[slice(*box[axis])]
        low, high = (int(own.min()), int(own.max()) + 1) if len(own) else (0, 0)
        stored[axis] = (low, high)
        moved[axis] = own - low
    return tuple(stored), moved


@dataclass(frozen=True)
class Sharing:
    """Arrays that the same ranks share.

    Attributes
    ----------
    names
        The arrays.
    classes
        By model rank: model ranks with the same number have the same boxes of them.
    """

    names: list[str]
    classes: tuple[int, ...]

    def color(self, topology: Topology) -> int:
        """A number that the ranks which share a batch of these arrays have in common."""
        model = topology.axis("model")
        return topology.data_rank * model.size + self.classes[model.rank]

    def comm(self, topology: Topology) -> MPI.Comm:
        """Communicator of these ranks, sample ranks in order. Collective over the world."""
        model = topology.axis("model")
        key = topology.sample_rank * model.size + model.rank
        return topology.world.Split(self.color(topology), key)


def sharing(parts: Parts, dataset: Dataset, topology: Topology) -> tuple[list[Sharing], list[str]]:
    """Who shares which arrays: ranks of a data group that need the same box of them.

    Collective over the world, and not to be within a block that fails on some ranks alone.

    Returns
    -------
    tuple
        The groups of arrays, the same on every rank, and a line for each array of which more is
        read than needed.

    Raises
    ------
    UsageError
        On all ranks, if two with the same place on the model axis want different parts.
    """
    names, model = list(dataset.manifest.arrays), topology.axis("model")
    everyone = topology.world.allgather((model.rank, parts.stored))
    by_model: dict[int, dict[str, Box]] = {}
    for rank, (place, stored) in enumerate(everyone):
        known = by_model.setdefault(place, stored)
        for name in names:
            if known[name] != stored[name]:
                raise UsageError(
                    f"part of {name}: rank {rank} wants {stored[name]}, another rank at place "
                    f"{place} of the model axis {known[name]}; the ranks of a sample group and of "
                    f"a data group have the same parts"
                )
    found: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        boxes = [by_model[m][name] for m in range(model.size)]
        found.setdefault(tuple(boxes.index(box) for box in boxes), []).append(name)
    more = []
    for name in names:
        line = _reads_more(name, dataset, {by_model[m][name] for m in by_model})
        more += [line] if line else []
    return [Sharing(of, classes) for classes, of in found.items()], more


def _reads_more(name: str, dataset: Dataset, boxes: set[Box]) -> str:
    spec = dataset.manifest.arrays[name]
    cut = [box for box in boxes if 0 not in shape_of(box) and shape_of(box) != tuple(spec.shape)]
    ratio = max((Cutter(spec, box).ratio for box in cut), default=1.0)
    if ratio < MORE:
        return ""
    return (
        f"{dataset.path}: chunks of {name} are no slabs of the parts that are read, so "
        f"{ratio:.1f} times as many bytes are read as needed; hpcsamp ingest --slabs stores others"
    )
