"""Data augmentation on the device, with a random view for every item and weight sample.

Every draw is a function of (seed, epoch, item, sample) alone: it does not depend on the grid, on
the batch of the item, or on earlier draws. Crops, flips and shifts are implemented here because
torchvision draws once per batch; with the same offsets they equal torchvision's functional
transforms. The paper augments per GPU (``share = "rank"``, section 6.1) and compares with
``"all"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpcsamp.data.slabs import Box
from hpcsamp.devices import on_device
from hpcsamp.errors import UsageError
from hpcsamp.names import Share
from hpcsamp.streams import Purpose, key

if TYPE_CHECKING:
    from hpcsamp.config import AugmentSection
    from hpcsamp.data.dataset import Dataset
    from hpcsamp.data.manifest import Stats
    from hpcsamp.data.parts import ReadBoxes
    from hpcsamp.grid import Topology


TOP, LEFT, FLIP, SHIFT, TRANSFORM = range(5)
"""Purposes of the draws; the numbers select random streams, so changing one changes results."""


@dataclass(frozen=True)
class ViewOffsets:
    """Random crops, flips and shifts of a batch, int64 arrays of shape ``(views, B)``.

    Attributes
    ----------
    top, left
        Corner of the crop in the padded image, ``0 .. 2 * crop``.
    flip
        1 if the item is mirrored.
    shift
        Columns by which the last axis is rolled to the right.
    """

    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray
    shift: np.ndarray


class Augmentation:
    """Random crop, flip, periodic shift, and any torchvision v2 transforms, in this order.

    Parameters
    ----------
    crop
        Pixels of padding on each side before a crop to the original size; 0 for no crop.
    flip
        Mirror the last axis with probability 1/2.
    shift
        Roll the last axis (longitude) by a random number of columns. If the targets are fields,
        too, the outputs are rolled back (:meth:`undo`).
    transforms
        Transforms of ``torchvision.transforms.v2`` by name and arguments, e.g.
        ``{"name": "RandomRotation", "degrees": 9}``, or callables. Applied to each item separately.
    share
        ``"sample"``: each weight sample has a view of its own. ``"rank"``: the samples of a rank
        share a view, so results depend on the number of ranks, as in the paper. ``"all"``: all
        samples share a view.
    seed
        The run's seed.
    rank
        Rank in the sample group, for ``share = "rank"``.
    fill
        Value of the padding, a number or one per channel. Black is ``-mean / std`` if inputs are
        standardised.

    Raises
    ------
    UsageError
        If a transform is unknown or its arguments are invalid.
    """

    def __init__(
        self,
        *,
        crop: int = 0,
        flip: bool = False,
        shift: bool = False,
        transforms: Sequence[Any] = (),
        share: Share = "sample",
        seed: int = 1,
        rank: int = 0,
        fill: float | Sequence[float] = 0.0,
    ):
        self.crop, self.flip, self.shift = crop, flip, shift
        self.transforms = [_transform(t) for t in transforms]
        self.share, self.seed, self.rank = share, seed, rank
        self.fill = fill

    @classmethod
    def of(
        cls,
        section: AugmentSection,
        dataset: Dataset,
        topology: Topology,
        *,
        seed: int,
        parts: ReadBoxes | None = None,
    ) -> Augmentation | None:
        """Build the augmentation that ``[augment]`` configures for standardised inputs.

        Parameters
        ----------
        parts
            The part of every item that this rank holds; None if it holds whole items.

        Returns
        -------
        Augmentation or None
            None if no augmentation is configured.

        Raises
        ------
        UsageError
            If items are ids or do not have the shape ``(C, H, W)``; if it is ambiguous which of
            several inputs to augment; if values would move along an axis that is split between
            ranks.
        """
        if not section.active:
            return None
        name = image_of(section, dataset)
        rows = slice(None)
        if parts is not None:
            _check_parts(section, dataset, name or "x", parts)
            rows = parts.rows(name or "x")
        if name is not None:
            stats = dataset.manifest.stats[name]
            fields = [n for n in dataset.targets if len(dataset.manifest.arrays[n].shape) > 1]
            if section.shift and dataset.has_several_targets and fields:
                raise UsageError(
                    f"augment.shift: the outputs for {', '.join(fields)} cannot be shifted back if "
                    f"there are several targets; leave out augment.shift"
                )
            return cls(
                **section.model_dump(exclude={"input"}), seed=seed, rank=topology.sample_rank,
                fill=_black(stats)[rows],
            )  # fmt: skip
        if dataset.inputs == "ids":
            raise UsageError(
                f"augment: the inputs of {dataset.path} are ids, which cannot be cropped, mirrored "
                "or shifted; leave out [augment]"
            )
        if len(dataset.x_shape) != 3:
            raise UsageError(
                f"augment needs items of shape (channels, height, width), but those of "
                f"{dataset.path} are {dataset.x_shape}"
            )
        return cls(
            **section.model_dump(exclude={"input"}),
            seed=seed,
            rank=topology.sample_rank,
            fill=_black(dataset.stats)[rows],
        )

    def __call__(
        self, x: torch.Tensor, index: np.ndarray, *, epoch: int, samples: range
    ) -> torch.Tensor:
        """Augment a batch.

        Parameters
        ----------
        x
            Items, shape ``(B, C, H, W)``.
        index
            Their positions in the split, shape ``(B,)``.
        epoch
            Epoch, counted from 0.
        samples
            The weight samples whose views are needed.

        Returns
        -------
        torch.Tensor
            Shape ``(len(samples), B, C, H, W)``, or ``(B, C, H, W)`` for ``share = "all"``.
        """
        views = self._views(samples)
        out = self._move(x, self.offsets(index, epoch, samples, x.shape[-1]))
        if self.transforms:
            out = self._transformed(out, index, epoch, views)
        if self.share == "all":
            return out[0]
        return out.expand(len(samples), *out.shape[1:]) if self.share == "rank" else out

    def undo(
        self, outputs: torch.Tensor, index: np.ndarray, *, epoch: int, samples: range, width: int
    ) -> torch.Tensor:
        """Shift the outputs for shifted inputs back, so that they fit the original targets.

        A loss then needs one target for all samples. For a loss that treats all longitudes alike,
        this equals shifting the targets, because values only change places. A loss that compares
        samples grid point by grid point (mixtures, moments, pairs) then compares them at the same
        place on Earth.

        Parameters
        ----------
        outputs
            Shape ``(len(samples), B, ..., width)``, or with all values of an item in one axis.
            Differentiable.
        index, epoch, samples
            As in the call that augmented the inputs.
        width
            Columns (longitudes) of a field.

        Returns
        -------
        torch.Tensor
            The shape of ``outputs``.

        Raises
        ------
        UsageError
            If the number of outputs of an item is not a multiple of ``width``.
        """
        if not self.shift:
            return outputs
        if outputs[0, 0].numel() % width:
            raise UsageError(
                f"augment.shift: the network has {outputs[0, 0].numel()} outputs for an item, "
                f"which is not a multiple of the {width} longitudes of the inputs; leave it out"
            )
        drawn = self.offsets(index, epoch, samples, width).shift
        drawn = np.broadcast_to(drawn, (len(samples), len(index)))
        rows = outputs.reshape(*outputs.shape[:2], -1, width)
        columns = (np.arange(width) + drawn[..., None]) % width
        at = on_device(columns, outputs.device)[:, :, None].expand(rows.shape)
        return torch.take_along_dim(rows, at, dim=-1).view(outputs.shape)

    def offsets(self, index: np.ndarray, epoch: int, samples: range, width: int) -> ViewOffsets:
        """Draw the random numbers for a batch of items of this width; see :class:`ViewOffsets`."""
        views = self._views(samples)

        def draw(purpose: int, count: int) -> np.ndarray:
            return self._uniform(index, epoch, views, purpose, count)

        edge = 2 * self.crop + 1
        return ViewOffsets(
            top=draw(TOP, edge),
            left=draw(LEFT, edge),
            flip=draw(FLIP, 2 if self.flip else 1),
            shift=draw(SHIFT, width if self.shift else 1),
        )

    def _views(self, samples: range) -> np.ndarray:
        """Counters of the views: one for each sample, one for this rank, or one for all samples."""
        if self.share == "all":
            return np.zeros(1, np.uint64)
        if self.share == "rank":
            return np.asarray([self.rank], np.uint64)
        return np.asarray(samples, np.uint64)

    def _bits(self, index: np.ndarray, epoch: int, views: np.ndarray, purpose: int) -> np.ndarray:
        """64 random bits per view and item, shape ``(views, B)``."""
        start = np.uint64(key(self.seed, Purpose.AUGMENT, epoch, purpose))
        by_item = _mix(start ^ _mix(np.asarray(index, np.uint64)))
        return _mix(by_item[None, :] ^ _mix(views + np.uint64(0x632B_E59B_D9B4_E019))[:, None])

    def _uniform(
        self, index: np.ndarray, epoch: int, views: np.ndarray, purpose: int, count: int
    ) -> np.ndarray:
        """Uniform integers ``0 .. count - 1``, int64 of shape ``(views, B)``."""
        if count == 1:
            return np.zeros((len(views), len(index)), np.int64)
        top = (self._bits(index, epoch, views, purpose) >> np.uint64(11)).astype(np.float64)
        return (top * 2.0**-53 * count).astype(np.int64)

    def _move(self, x: torch.Tensor, drawn: ViewOffsets) -> torch.Tensor:
        """Crop, flip and shift in one gather operation; shape ``(views, B, C, H, W)``."""
        views, count = drawn.top.shape
        height, width = x.shape[-2:]
        columns = np.broadcast_to(np.arange(width), (views, count, width))
        columns = (columns - drawn.shift[..., None]) % width
        columns = np.where(drawn.flip[..., None] > 0, width - 1 - columns, columns)
        columns = columns + drawn.left[..., None]
        rows = drawn.top[..., None] + np.arange(height)
        source = self._padded(x)
        items = torch.arange(count, device=x.device)
        return source[
            items[None, :, None, None, None],
            torch.arange(x.shape[1], device=x.device)[None, None, :, None, None],
            on_device(rows, x.device)[:, :, None, :, None],
            on_device(columns, x.device)[:, :, None, None, :],
        ]

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        if not self.crop:
            return x
        p = self.crop
        fill = on_device(np.asarray(self.fill), x.device, x.dtype).reshape(-1, 1, 1)
        height, width = x.shape[-2] + 2 * p, x.shape[-1] + 2 * p
        padded = fill.expand(x.shape[1], height, width).repeat(len(x), 1, 1, 1)
        padded[..., p:-p, p:-p] = x
        return padded

    def _transformed(
        self, x: torch.Tensor, index: np.ndarray, epoch: int, views: np.ndarray
    ) -> torch.Tensor:
        """Apply torchvision's transforms with a seed for each item and view.

        They draw from torch's global generator, whose state is restored afterwards.
        """
        seeds = self._bits(index, epoch, views, TRANSFORM) >> np.uint64(1)
        devices = [x.device] if x.device.type == "cuda" else []
        rows = []
        with torch.random.fork_rng(devices=devices):
            for v in range(len(views)):
                items = []
                for b in range(x.shape[1]):
                    torch.manual_seed(int(seeds[v, b]))
                    item = x[v, b]
                    for transform in self.transforms:
                        item = transform(item)
                    items.append(item)
                rows.append(torch.stack(items))
        return torch.stack(rows)


def _check_parts(section: AugmentSection, dataset: Dataset, name: str, parts: ReadBoxes) -> None:
    """Refuse to move values along an axis that is split between ranks."""
    arrays = dataset.manifest.arrays
    fields = [n for n in dataset.targets if len(arrays[n].shape) > 1]
    for array in [name, *fields]:
        check_box(section, array, arrays[array].shape, parts.boxes[array], array != name)


def check_box(
    section: AugmentSection, array: str, shape: Sequence[int], box: Box, of_targets: bool = False
) -> None:
    """Refuse to move values along an axis if a rank holds only a part of it.

    Parameters
    ----------
    section
        Requested augmentation.
    array, shape, box
        Name of the array, its shape in one item, and the part of it that the rank holds.
    of_targets
        Whether the array holds targets; only shifts are applied to them.

    Raises
    ------
    UsageError
        If values would move along a split axis; the message names the key, the axis and the part.
    """
    moved = {"flip": {-1}, "shift": {-1}, "crop": {-2, -1}, "transforms": {-3, -2, -1}}
    for option, axes in moved.items():
        if not getattr(section, option) or (of_targets and option != "shift"):
            continue
        for axis in sorted(-i for i in range(1, len(shape) + 1)):
            if axis in axes and box[axis] != (0, shape[axis]):
                start, stop = box[axis]
                raise UsageError(
                    f"augment.{option} moves values along axis {len(shape) + axis} of {array}, "
                    f"but this rank has only the part {start}:{stop} of {shape[axis]}; leave "
                    f"it out, or let the model ranks split another axis"
                )


def image_of(section: AugmentSection, dataset: Dataset) -> str | None:
    """Name of the input that is augmented; None if the dataset has only one input.

    Raises
    ------
    UsageError
        If no input or more than one can be augmented, or the named input cannot.
    """
    if not dataset.has_several_inputs:
        if section.input not in (None, "x"):
            raise UsageError(
                f"augment.input = {section.input!r}: {dataset.path} has only the input x"
            )
        return None
    arrays = dataset.manifest.arrays
    able = [n for n, k in dataset.kinds.items() if k == "numbers" and len(arrays[n].shape) == 3]
    if section.input is None and len(able) == 1:
        return able[0]
    if section.input not in able:
        raise UsageError(
            f"augment.input = {section.input!r}: among the inputs of {dataset.path} "
            f"({', '.join(dataset.kinds)}) only those of shape (channels, height, width) can be "
            f"augmented: {', '.join(able) or 'none'}"
        )
    return section.input


def _black(stats: Stats) -> list[float]:
    """The value of black in each standardised channel."""
    mean, std = np.asarray(stats.mean), np.asarray(stats.std)
    fill: list[float] = (-mean / np.where(std > 0, std, 1.0)).tolist()
    return fill


def _mix(bits: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(0x9E37_79B9_7F4A_7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        return bits ^ (bits >> np.uint64(31))


def _transform(entry: Any) -> Any:
    """Make a transform from its name and arguments; a callable is returned unchanged."""
    if callable(entry):
        return entry
    from hpcsamp.vision import torchvision

    v2 = torchvision().transforms.v2
    arguments = dict(entry)
    name = str(arguments.pop("name", ""))
    kind = getattr(v2, name, None)
    if not isinstance(kind, type) or not issubclass(kind, v2.Transform):
        raise UsageError(
            f"augment.transforms: {name!r} is not a transform of torchvision.transforms.v2"
        )
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as e:
        raise UsageError(f"augment.transforms: {name}: {e}") from e
