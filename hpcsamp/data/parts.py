"""Parts of items: the box of each array that a model rank reads, and the ranks that share it."""

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
"""Ratio of bytes read to bytes needed above which a warning suggests other chunks."""

AnyBox = Part | Sequence[Any]
"""A part, or for each axis of an item ``(start, stop)``, a slice or ``None`` (the whole axis)."""

Given = AnyBox | Mapping[str, AnyBox | None]
"""A box of the only input, or boxes by the names of arrays."""


@dataclass(frozen=True)
class ReadBoxes:
    """The boxes of all arrays that a rank reads.

    Attributes
    ----------
    boxes
        By array: the part of every item in a batch, in the order in which a network receives it.
    stored
        By array: the box on disk that contains it.
    order
        By array and axis: position of each entry of the batch in the part that is read, if the
        order on disk differs.
    """

    boxes: dict[str, Box]
    stored: dict[str, Box]
    order: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def slices(self, array: str) -> tuple[slice, ...]:
        """Slices of an item on disk that are read."""
        return slices(self.stored[array])

    def rows(self, array: str) -> slice:
        """Rows (channels, features) of an array in a batch; all of them if items have no axes."""
        box = self.boxes[array]
        return slice(*box[0]) if box else slice(None)

    def cut(self, dataset: Dataset) -> list[str]:
        """Names of the arrays of which a batch holds only a part."""
        arrays = dataset.manifest.arrays
        return [n for n, box in self.boxes.items() if shape_of(box) != tuple(arrays[n].shape)]


def parts_of(given: Given | None, dataset: Dataset) -> ReadBoxes:
    """Check the boxes requested by a rank; arrays without a box are read whole.

    Raises
    ------
    UsageError
        If a box does not fit its array; the message names the array, the axis and both numbers.
    """
    arrays = dataset.manifest.arrays
    boxes = {name: whole(spec.shape) for name, spec in arrays.items()}
    for name, box_given in _by_name(given, dataset).items():
        if name not in arrays:
            raise UsageError(
                f"part of {name!r}: {dataset.path} has only the arrays {', '.join(arrays)}"
            )
        if box_given is not None:
            boxes[name] = _box(name, box_given, tuple(arrays[name].shape))
    stored, order = {}, {}
    for name, box in boxes.items():
        stored[name], moved = _on_disk(box, dataset.order.get(name, {}))
        if moved:
            order[name] = moved
    return ReadBoxes(boxes, stored, order)


def _by_name(given: Given | None, dataset: Dataset) -> Mapping[str, AnyBox | None]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    if dataset.has_several_inputs:
        raise UsageError(
            f"{dataset.path} has the inputs {', '.join(dataset.kinds)}: pass their parts as a "
            f"dictionary by name"
        )
    return {"x": given}


def _box(name: str, given: AnyBox, shape: tuple[int, ...]) -> Box:
    of = getattr(given, "shape", None)
    if of is not None and tuple(of) != shape:
        raise UsageError(
            f"part of {name}: it was made for items of shape {tuple(of)}, but items have the shape "
            f"{shape}"
        )
    axes: list[Any] = list(given if isinstance(given, Sequence) else given.box)
    if len(axes) != len(shape):
        raise UsageError(
            f"part of {name}: it has {len(axes)} axes, but items have the shape {shape}"
        )
    box = []
    for axis, (want, length) in enumerate(zip(axes, shape, strict=True)):
        if isinstance(want, slice) and want.step in (None, 1):
            want = (want.start or 0, length if want.stop is None else want.stop)
        try:
            start, stop = (0, length) if want is None else (int(want[0]), int(want[1]))
        except (TypeError, ValueError, IndexError):
            raise UsageError(
                f"part of {name}: {want!r} for axis {axis} is not a pair (start, stop)"
            ) from None
        if not 0 <= start <= stop <= length:
            raise UsageError(
                f"part of {name}: {start}:{stop} is not within axis {axis}, whose length is "
                f"{length}"
            )
        box.append((start, stop))
    return tuple(box)


def _on_disk(box: Box, order: Mapping[int, np.ndarray]) -> tuple[Box, dict[int, np.ndarray]]:
    """The box on disk that contains all entries of a box, and their positions in it."""
    stored, moved = list(box), {}
    for axis, places in order.items():
        own = np.asarray(places, np.int64)[slice(*box[axis])]
        low, high = (int(own.min()), int(own.max()) + 1) if len(own) else (0, 0)
        stored[axis] = (low, high)
        moved[axis] = own - low
    return tuple(stored), moved


@dataclass(frozen=True)
class SharedArrays:
    """Arrays that are shared by the same ranks.

    Attributes
    ----------
    names
        Names of the arrays.
    classes
        A number for each model rank; ranks with the same number need the same boxes of the arrays.
    """

    names: list[str]
    classes: tuple[int, ...]

    def color(self, topology: Topology) -> int:
        """Number that is the same on all ranks that share a batch of these arrays."""
        model = topology.axis("model")
        return topology.data_rank * model.size + self.classes[model.rank]

    def comm(self, topology: Topology) -> MPI.Comm:
        """Communicator of these ranks, ordered by sample rank. Collective over the world."""
        model = topology.axis("model")
        key = topology.sample_rank * model.size + model.rank
        return topology.world.Split(self.color(topology), key)


def sharing(
    parts: ReadBoxes, dataset: Dataset, topology: Topology
) -> tuple[list[SharedArrays], list[str]]:
    """Find the ranks of a data group that need the same box of an array, and so can share it.

    Collective over the world.

    Returns
    -------
    tuple
        The groups of arrays, the same on every rank, and a warning for each array of which more
        bytes are read than needed.

    Raises
    ------
    UsageError
        On all ranks, if two ranks with the same model rank need different parts.
    """
    names, model = list(dataset.manifest.arrays), topology.axis("model")
    everyone = topology.world.allgather((model.rank, parts.stored))
    by_model: dict[int, dict[str, Box]] = {}
    for rank, (place, stored) in enumerate(everyone):
        known = by_model.setdefault(place, stored)
        for name in names:
            if known[name] != stored[name]:
                raise UsageError(
                    f"part of {name}: rank {rank} needs {stored[name]}, but another rank with the "
                    f"model rank {place} needs {known[name]}; all ranks with the same model rank "
                    f"must have the same part"
                )
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        boxes = [by_model[m][name] for m in range(model.size)]
        groups.setdefault(tuple(boxes.index(box) for box in boxes), []).append(name)
    more = []
    for name in names:
        line = _reads_more(name, dataset, {by_model[m][name] for m in by_model})
        more += [line] if line else []
    return [SharedArrays(of, classes) for classes, of in groups.items()], more


def _reads_more(name: str, dataset: Dataset, boxes: set[Box]) -> str:
    spec = dataset.manifest.arrays[name]
    cut = [box for box in boxes if 0 not in shape_of(box) and shape_of(box) != tuple(spec.shape)]
    ratio = max((Cutter(spec, box).ratio for box in cut), default=1.0)
    if ratio < MORE:
        return ""
    return (
        f"{dataset.path}: the chunks of {name} do not fit the parts that are read, so "
        f"{ratio:.1f} times as many bytes are read as needed; choose other chunks with hpcsamp "
        f"ingest --slabs"
    )
