"""A point of a campaign: one run, its settings and its resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcsamp.campaign.resources import Shape
from hpcsamp.errors import UsageError
from hpcsamp.names import SampleAxis
from hpcsamp.spelling import shown


@dataclass(frozen=True)
class Point:
    """One run of a campaign.

    Attributes
    ----------
    number
        Position in the plan, from 1.
    name
        Hash of everything that determines the results; also the name of its folder.
    values
        Axes and derived names with their values: the columns of every table.
    settings
        Keys of the configuration that differ from the base.
    shape
        Resources of the point.
    seed
        Seed of the run.
    samples, sample_axis, model_ranks
        ``method.samples``, ``parallel.samples`` and ``parallel.model``, which must fit the ranks.
    """

    number: int
    name: str
    values: dict[str, Any]
    settings: dict[str, Any]
    shape: Shape
    seed: int
    samples: int = 1
    sample_axis: SampleAxis = "node"
    model_ranks: int = 1


def describe(values: Mapping[str, Any]) -> str:
    """Format values on one line, e.g. ``optimizer.lr=0.001, seed=2``."""
    return ", ".join(f"{k}={_short(v)}" for k, v in values.items()) or "no axes"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else shown(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def find(points: Sequence[Point], text: str) -> Point:
    """Find a point by its number or the beginning of its name.

    Raises
    ------
    UsageError
        If no point matches, or more than one.
    """
    if text.isdigit() and 1 <= int(text) <= len(points):
        return points[int(text) - 1]
    matches = [p for p in points if p.name.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"the names of {len(matches)} points begin with {text!r}: write more characters"
        )
    raise UsageError(
        f"there is no point {text!r}: use a number from 1 to {len(points)} or the name of a folder"
    )
