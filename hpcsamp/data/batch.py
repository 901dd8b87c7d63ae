"""A batch of tensors, and its conversion from raw items: device, dtype, standardisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.order import GlobalBatch
from hpcsamp.data.parts import ReadBoxes, parts_of
from hpcsamp.data.roles import WEIGHT, Kind
from hpcsamp.data.shard import check_labels
from hpcsamp.devices import on_device

FAR, DECADES = 1000, 30
"""Largest ``|mean| / std`` and largest ``|log10 std|`` for which float32 keeps enough digits."""


@dataclass(frozen=True)
class Batch:
    """The items that a rank processes in one step; ``x, y = batch`` unpacks it.

    If the loader was given parts, inputs, targets and masks hold only those parts of the items.

    Attributes
    ----------
    x
        Inputs, shape ``(B, *x_shape)``, on the rank's device: numeric values, int64 ids, or flags
        (bool). A dictionary by name if there are several inputs.
    y
        Targets, shape ``(B, *y_shape)``: int64 labels or numeric values. A dictionary by name if
        there are several targets. A missing value is NaN, or the number that marks a missing label.
    index
        Positions in the split, int64 array of shape ``(B,)``.
    weight
        Weights of the items, shape ``(B,)``: 0 for padding, 1 if the dataset has no weights. The
        weights of a dataset are divided by their mean over train.
    count
        Number of items of the step over all data groups, without padding: the divisor of a mean.
    mask
        Whether each value of ``y`` is known: bool in the shape of ``y``, by name if there are
        several targets; ``None`` if the dataset has no missing values. It is the ``mask`` argument
        of a loss.
    true
        Bool of shape ``(B,)``: False for padding.
    leads
        ``(B, k)`` weight of each lead time of each item, if targets are ``(B, k, ...)``: the states
        after ``1 .. k`` steps. None if items have one target.
    """

    x: Any
    y: Any
    index: np.ndarray
    weight: torch.Tensor
    count: int
    mask: Any = None
    true: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    leads: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.weight.device

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.y))

    def __len__(self) -> int:
        return len(self.index)


class Converter:
    """Convert raw items, which ranks share, to tensors that belong to this rank.

    On a GPU the raw bytes are copied on a separate stream, concurrently with the computations of
    the previous step, and converted on the GPU.

    Parameters
    ----------
    dataset
        Dataset whose statistics and classes are used.
    device, dtype
        Device and dtype of the tensors; labels and ids are int64.
    normalize
        Whether to standardise numeric arrays.
    parts
        The parts of the items that the raw arrays hold; default: whole items.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        dtype: torch.dtype,
        normalize: bool,
        parts: ReadBoxes | None = None,
    ):
        self.dataset, self.device, self.dtype = dataset, device, dtype
        self.parts = parts_of(None, dataset) if parts is None else parts
        scaled = [name for name, kind in dataset.kinds.items() if kind == "numbers"]
        scaled += [name for name, target in dataset.targets.items() if target.normalize]
        self._scales = {name: self._scale(name) for name in scaled} if normalize else {}
        self._mean_weight = 0.0
        if WEIGHT in dataset.manifest.arrays:
            self._mean_weight = dataset.manifest.stats[WEIGHT].mean[0]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _scale(self, array: str) -> _Scale:
        """Mean and 1/std of each channel, which broadcast over items.

        A constant channel is standardised to 0."""
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
            own = values.reshape(shape)[self.parts.rows(array)] if spec.shape else values[0]
            return torch.as_tensor(own, dtype=dtype, device=self.device)

        return _Scale(tensor(mean), tensor(1 / std))

    def scale(self, array: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and 1/std by which an array is standardised; None if it is not standardised."""
        return self._scales.get(array)

    def __call__(self, own: GlobalBatch, count: int, arrays: Mapping[str, np.ndarray]) -> Batch:
        """Convert raw items to a batch; the raw items may be overwritten afterwards.

        Parameters
        ----------
        own
            This data group's part of the step.
        count
            Number of items of the step over all data groups.
        arrays
            Raw items by name, shapes ``(B, ...)``.

        Raises
        ------
        DataError
            If a label is out of range.
        """
        data = self.dataset
        x = {name: self._input(name, kind, arrays[name]) for name, kind in data.kinds.items()}
        y, mask = {}, {}
        for name, target in data.targets.items():
            raw = arrays[name]
            if target.classes is not None:
                where = f"{data.path}: batch of {data.split}"
                check_labels(raw, target.classes, where, target.missing)
            moved = self._move(raw)
            labels = target.classes is not None
            y[name] = moved.to(torch.int64) if labels else self._number(name, moved)
            if target.missing is not None:
                mask[name] = y[name] != target.missing if labels else ~y[name].isnan()
        weight = np.asarray(own.weight, np.float64)
        if WEIGHT in arrays:
            weight = weight * (arrays[WEIGHT] / self._mean_weight)
        several = data.has_several_targets
        return Batch(
            x=x if data.has_several_inputs else x["x"],
            y=y if several else y["y"],
            index=own.items,
            weight=on_device(weight, self.device, self.dtype),
            count=count,
            mask=(mask if several else mask["y"]) if mask else None,
            true=np.asarray(own.weight) > 0,
        )

    def _input(self, name: str, kind: Kind, raw: np.ndarray) -> torch.Tensor:
        moved = self._move(raw)
        if kind in ("numbers", "values"):
            return self._number(name, moved)
        return self._ordered(name, moved.to(torch.int64 if kind == "ids" else torch.bool))

    def _move(self, raw: np.ndarray) -> torch.Tensor:
        """Copy an array to a tensor on the device; the copy shares no memory with ``raw``."""
        if self._copies is None:
            return torch.from_numpy(raw).clone()
        with torch.cuda.stream(self._copies):
            moved = torch.from_numpy(raw).to(self.device, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._copies)
        compute = torch.cuda.current_stream(self.device)
        compute.wait_event(done)
        moved.record_stream(compute)
        done.synchronize()  # waits only for the copy; the computations of the last step go on
        return moved

    def _number(self, array: str, raw: torch.Tensor) -> torch.Tensor:
        scale = self._scales.get(array)
        values = self._ordered(array, raw.to(self.dtype if scale is None else scale.mean.dtype))
        if scale is not None:
            values = values.sub_(scale.mean).mul_(scale.factor)
        return values.to(self.dtype)

    def _ordered(self, array: str, values: torch.Tensor) -> torch.Tensor:
        for axis, places in self.parts.order.get(array, {}).items():
            values = values.index_select(axis + 1, torch.as_tensor(places, device=values.device))
        return values


class _Scale(NamedTuple):
    """Mean and factor that standardise an array; the computation uses their dtype."""

    mean: torch.Tensor
    factor: torch.Tensor
