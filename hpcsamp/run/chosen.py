"""Keep the chosen evaluation of samples, so that resumed runs are equal to the last bit.

A method chooses by timings how many samples it evaluates at once, and how. The choice is reused
with the same number of ranks per sample group on the same device type; elsewhere another choice may
be faster, so it is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp.grid import Topology
from hpcsamp.methods import Method


def kept(method: Method, topology: Topology) -> dict[str, Any]:
    """Return how a method evaluates samples, and the device and ranks for which it was chosen."""
    return {**method.choice(), "on": _place(topology)}


def take(content: Mapping[str, Any], method: Method, topology: Topology) -> None:
    """Reuse the choice in a checkpoint if it was made on the same device type and rank count."""
    passes = content.get("passes", {})
    if passes.get("on") == _place(topology):
        method.take_choice(passes)


def _place(topology: Topology) -> list[Any]:
    return [topology.sample_size, topology.device.type]
