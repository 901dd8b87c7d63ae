"""A batch, and how raw items become one: device, type, statistics of train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.order import Step
from hpcsamp.data.shard import check_labels

FAR, DECADES = 1000, 30
"""From these on (mean over standard deviation, decades of the latter) float32 would lose digits."""


@dataclass(frozen=True)
class Batch:
    """What a rank works on in one step; ``x, y = batch`` unpacks it.

    Attributes
    ----------
    x
        Inputs, shape ``(B, *x_shape)``, on the rank's device: numbers or int64 ids.
    y
        Targets, shape ``(B, *y_shape)``: int64 labels or numbers.
    index
        Positions in the split, int64 array of shape ``(B,)``.
    weight
        1 for items and 0 for padding, shape ``(B,)``.
    count
        Items of the step over all data groups, padding not counted: the divisor of a mean.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: np.ndarray
    weight: torch.Tensor
    count: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.x, self.y))

    def __len__(self) -> int:
        return len(self.index)


class Converter:
    """Raw items to tensors of this rank's own.

    On a GPU the raw bytes are copied on a stream of their own, beside the compute of the step
    before, and converted there.

    Parameters
    ----------
    dataset
        Whose statistics and classes.
    device, dtype
        Of the tensors; labels and ids are int64.
    normalize
        Whether to standardise numbers.
    """

    def __init__(self, dataset: Dataset, device: torch.device, dtype: torch.dtype, normalize: bool):
        self.dataset, self.device, self.dtype = dataset, device, dtype
        manifest = dataset.manifest
        self._ids = manifest.inputs == "ids"
        self._x = self._scale("x") if normalize and not self._ids else None
        self._y = self._scale("y") if normalize and manifest.normalize_y else None
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _scale(self, array: str) -> _Scale:
        """Mean and 1/std of every channel, shaped to broadcast over items; constants become 0."""
        stats, spec = self.dataset.manifest.stats[array], self.dataset.manifest.arrays[array]
        mean, std = np.asarray(stats.mean), np.asarray(stats.std)
        std = np.where(std > 0, std, 1.0)
        shape = (-1, *[1] * (len(spec.shape) - 1)) if spec.shape else ()
        kind = np.dtype(spec.dtype)
        wide = (
            kind.itemsize > (4 if kind.kind == "f" else 2)
            or bool((np.abs(mean) > FAR * std).any())
            or bool((np.abs(np.log10(std)) > DECADES).any())
        )

        def tensor(values: np.ndarray) -> torch.Tensor:
            dtype = torch.float64 if wide else self.dtype
            return torch.as_tensor(values.reshape(shape), dtype=dtype, device=self.device)

        return _Scale(tensor(mean), tensor(1 / std))

    def __call__(self, own: Step, count: int, x: np.ndarray, y: np.ndarray) -> Batch:
        """The batch of a rank from raw items, which are no longer needed afterwards.

        Parameters
        ----------
        own
            This data group's part of the step.
        count
            Items of the step over all data groups.
        x, y
            Raw items, shapes ``(B, *x_shape)`` and ``(B, *y_shape)``.

        Raises
        ------
        DataError
            If a label is out of range.
        """
        labels = self.dataset.classes is not None
        if self.dataset.classes is not None:
            check_labels(
                y, self.dataset.classes, f"{self.dataset.path}: batch of {self.dataset.split}"
            )
        raw_x, raw_y = self._move(x), self._move(y)
        return Batch(
            x=self._ordered("x", raw_x.to(torch.int64))
            if self._ids
            else self._number("x", raw_x, self._x),
            y=raw_y.to(torch.int64) if labels else self._number("y", raw_y, self._y),
            index=own.items,
            weight=torch.as_tensor(own.weight, dtype=self.dtype, device=self.device),
            count=count,
        )

    def _move(self, raw: np.ndarray) -> torch.Tensor:
        """A tensor on the device that shares nothing with ``raw``."""
        if self._copies is None:
            return torch.from_numpy(raw).clone()
        with torch.cuda.stream(self._copies):
            moved = torch.from_numpy(raw).to(self.device, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._copies)
        compute = torch.cuda.current_stream(self.device)
        compute.wait_event(done)
        moved.record_stream(compute)
        done.synchronize()  # waits for the copy alone; the compute of the last step goes on
        return moved

    def _number(self, array: str, raw: torch.Tensor, scale: _Scale | None) -> torch.Tensor:
        values = self._ordered(array, raw.to(self.dtype if scale is None else scale.mean.dtype))
        if scale is not None:
            values = values.sub_(scale.mean).mul_(scale.factor)
        return values.to(self.dtype)

    def _ordered(self, array: str, values: torch.Tensor) -> torch.Tensor:
        for axis, places in self.dataset.order.get(array, {}).items():
            values = values.index_select(axis + 1, torch.as_tensor(places, device=values.device))
        return values


class _Scale(NamedTuple):
    """How an array is standardised: in the type of these, before it becomes that of the batch."""

    mean: torch.Tensor
    factor: torch.Tensor
