"""Decide which arrays of a source are stored in slabs of their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.errors import UsageError

FROM_BYTES = 32 * 2**20
"""Size of an item in bytes above which it is stored in slabs by default."""

Slabs = str | Sequence[int]
"""``"auto"``, ``"on"``, ``"off"`` or the shape of a slab, also as ``"6x720x120"``."""


def in_slabs(arrays: Mapping[str, ArraySpec], wanted: Slabs = "auto") -> dict[str, ArraySpec]:
    """Set the slabs in which arrays are stored.

    Parameters
    ----------
    arrays
        Arrays as the source describes them.
    wanted
        ``"auto"``: slabs for arrays whose items have more than :data:`FROM_BYTES`. ``"on"``: slabs
        for all arrays whose items do not fit one chunk. ``"off"``: no slabs. A shape with one
        number for each axis of an item: slabs of this shape, cut to the items, for all arrays
        with that many axes.

    Raises
    ------
    UsageError
        If ``wanted`` is none of these, or no array has as many axes as the shape has numbers.
    """
    if isinstance(wanted, str) and wanted in ("auto", "on", "off"):
        least = {"auto": FROM_BYTES, "on": 0, "off": float("inf")}[wanted]
        return {
            name: spec.in_slabs() if spec.item_bytes > least and spec.slab is None else spec
            for name, spec in arrays.items()
        }
    try:
        shape = [int(n) for n in (wanted.split("x") if isinstance(wanted, str) else wanted)]
    except (TypeError, ValueError):
        shape = []
    if not shape or min(shape) < 1:
        raise UsageError(
            f'slabs = {wanted!r} must be "auto", "on", "off" or a positive number for each axis of '
            "an item, such as 6x720x120"
        )
    if all(len(spec.shape) != len(shape) for spec in arrays.values()):
        items = ", ".join(f"{name} {tuple(spec.shape)}" for name, spec in arrays.items())
        raise UsageError(
            f"slabs of {len(shape)} axes, {tuple(shape)}, fit none of the items: {items}"
        )
    return {
        name: spec.in_slabs(shape) if len(spec.shape) == len(shape) else spec
        for name, spec in arrays.items()
    }
