"""Pad sequences of unequal length to one length, with a mask that marks where they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpcsamp.errors import DataError

Ragged = Sequence[np.ndarray]
"""Arrays ``(steps, ...)`` of unequal lengths, one for each item."""


@dataclass(frozen=True)
class Mask:
    """An input that marks which steps of a padded sequence are padding.

    Attributes
    ----------
    name
        Name of the argument of the network.
    padding
        Whether True marks padding, as in torch's ``src_key_padding_mask``, or a step of the
        sequence, as in the ``attention_mask`` of transformers. Default: the former if the name
        contains ``padding``.
    flags
        Whether the mask is bool; otherwise it has int64 values 0 and 1. Default: bool if True
        marks padding.
    """

    name: str
    padding: bool | None = None
    flags: bool | None = None

    @property
    def tells_padding(self) -> bool:
        """Whether True marks padding."""
        return "padding" in self.name if self.padding is None else self.padding

    @property
    def is_bool(self) -> bool:
        """Whether the mask is bool."""
        return self.tells_padding if self.flags is None else self.flags

    def of(self, lengths: np.ndarray, longest: int) -> np.ndarray:
        """Return the mask ``(n, longest)`` of sequences with these lengths."""
        there = np.arange(longest) < lengths[:, None]
        found = ~there if self.tells_padding else there
        return found if self.is_bool else found.astype(np.int64)


def is_ragged(values: object) -> bool:
    """Whether items are a list of arrays, which may have unequal lengths."""
    return isinstance(values, (list, tuple)) or (
        isinstance(values, np.ndarray) and values.dtype == object
    )


def lengths_of(items: Ragged, where: str) -> np.ndarray:
    """Return the number of steps of each sequence, ``(n,)``.

    Raises
    ------
    DataError
        If an item is not a sequence, has no steps, or its steps differ in shape from the first.
    """
    arrays = [np.asarray(item) for item in items]
    if not arrays:
        raise DataError(f"{where} has no items")
    for i, array in enumerate(arrays):
        if array.ndim < 1 or array.dtype.kind not in "biuf":
            raise DataError(f"{where}: item {i} is not a sequence of numbers ({array.dtype})")
        if array.shape[1:] != arrays[0].shape[1:]:
            raise DataError(
                f"{where}: steps of item {i} have shape {array.shape[1:]}, but those of item 0 "
                f"have {arrays[0].shape[1:]}"
            )
        if not len(array):
            raise DataError(f"{where}: item {i} has no steps; at least one is needed")
    return np.asarray([len(a) for a in arrays])


def padded(items: Ragged, longest: int, fill: float) -> np.ndarray:
    """Pad sequences to ``(n, longest, ...)`` with ``fill`` after their ends."""
    arrays = [np.asarray(item) for item in items]
    kind = np.result_type(*arrays, *([np.float64] if np.isnan(fill) else []))
    out = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, kind)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def masks_by_name(masks: Mapping[str, str | Mask]) -> dict[str, Mask]:
    """Return the masks of padded arrays by the name of the array."""
    return {n: Mask(m) if isinstance(m, str) else m for n, m in masks.items()}
