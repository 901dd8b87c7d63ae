"""A batch, and how raw items become one: device, type, statistics of train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.order import Step
from hpcsamp.data.shard import check_labels


@dataclass(frozen=True)
class Batch:
    """What a rank works on in one step; ``x, y = batch`` unpacks it.

    Attributes
    ----------
    x
        Inputs, shape ``(B, *x_shape)``, on the rank's device.
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
        Of the tensors.
    normalize
        Whether to standardise.
    """

    def __init__(self, dataset: Dataset, device: torch.device, dtype: torch.dtype, normalize: bool):
        self.dataset, self.device, self.dtype = dataset, device, dtype
        manifest = dataset.manifest
        self._x = self._scale("x") if normalize else None
        self._y = self._scale("y") if normalize and manifest.normalize_y else None
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _scale(self, array: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and 1/std of every channel, shaped to broadcast over items; constants become 0."""
        stats, spec = self.dataset.manifest.stats[array], self.dataset.manifest.arrays[array]
        std = np.asarray(stats.std)
        shape = (-1, *[1] * (len(spec.shape) - 1)) if spec.shape else ()

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values.reshape(shape), dtype=self.dtype, device=self.device)

        return tensor(np.asarray(stats.mean)), tensor(1 / np.where(std > 0, std, 1.0))

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
            x=self._number(raw_x, self._x),
            y=raw_y.to(torch.int64) if labels else self._number(raw_y, self._y),
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

    def _number(
        self, values: torch.Tensor, scale: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        values = values.to(self.dtype)
        return values if scale is None else values.sub_(scale[0]).mul_(scale[1])
