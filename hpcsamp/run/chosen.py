"""Store how samples are evaluated in checkpoints, so that a resumed run is equal to the last bit.

The choice depends on timings. It is reused with the same number of ranks per sample group on the
same kind of device; elsewhere another choice may be faster, so it is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp.grid import Topology
from hpcsamp.methods import Method


def kept(method: Method, topology: Topology) -> dict[str, Any]:
    """The choice of a method, and the kind of place where it was measured."""
    return {**method.choice(), "on": _place(topology)}


def take(content: Mapping[str, Any], method: Method, topology: Topology) -> None:
    """Apply the choice in a checkpoint to a method, if it was measured in a place of this kind."""
    passes = content.get("passes", {})
    if passes.get("on") == _place(topology):
        method.take_choice(passes)


def _place(topology: Topology) -> list[Any]:
    return [topology.sample_size, topology.device.type]
