"""How samples are evaluated, in a checkpoint: what a clock chose is used again, to the last bit.

It is used again where the same number of ranks shares the samples, on the same kind of device;
elsewhere another chunk may be faster, and is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp.grid import Topology
from hpcsamp.methods import Method


def kept(method: Method, topology: Topology) -> dict[str, Any]:
    """The choice of a method, and where it was measured."""
    return {**method.choice(), "on": _place(topology)}


def take(content: Mapping[str, Any], method: Method, topology: Topology) -> None:
    """Let a method go on with the choice in a checkpoint, if it was measured in such a place."""
    passes = content.get("passes", {})
    if passes.get("on") == _place(topology):
        method.take_choice(passes)


def _place(topology: Topology) -> list[Any]:
    return [topology.sample_size, topology.device.type]
