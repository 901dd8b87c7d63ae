"""Select points of a campaign by their keys, their states, or their numbers and names."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcsamp.campaign.expressions import Expression, parse
from hpcsamp.campaign.keys import defaults, is_key
from hpcsamp.campaign.point import Point, find
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.status import WORDS, PointStatus
from hpcsamp.config import flatten
from hpcsamp.errors import UsageError
from hpcsamp.spelling import hint, suggest

_SHAPE = ("ranks", "nodes", "ranks_per_node", "cores", "gpus", "minutes", "memory")


@dataclass(frozen=True)
class Selection:
    """Conditions that a point must all meet; without conditions, every point is selected.

    Attributes
    ----------
    where
        Expression over keys of the configuration, ``resources.KEY`` and the number ``point``.
    states
        Allowed states.
    points
        Allowed numbers or beginnings of names.
    """

    where: Expression | None = None
    states: tuple[str, ...] = ()
    points: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.where is not None or bool(self.states or self.points)

    def of_plan(self, campaign: Campaign) -> list[Point]:
        """Return the planned points that meet ``where`` and ``points``, whatever their states.

        Raises
        ------
        UsageError
            If no point has a number or name, or the expression fails or uses a name without a
            value.
        """
        chosen = campaign.points
        if self.points:
            named = {find(chosen, text).name for text in self.points}
            chosen = [p for p in chosen if p.name in named]
        if self.where is None:
            return chosen
        base = ChainMap(flatten(campaign.base), defaults())
        axes = {key: None for point in campaign.points for key in point.values}
        for name in self.where.names:
            known = name in base or name in axes or name in _RESOURCES or name == "point"
            if not known and not is_key(name):
                raise UsageError(
                    f"--where {self.where.text!r}: there is no key {name!r}"
                    f"{hint(name, [*axes, *base, *_RESOURCES, 'point'])}"
                )
        empty = dict.fromkeys(self.where.names)
        return [p for p in chosen if self.where.value(_facts(p, base, empty))]

    def among(self, campaign: Campaign, points: Sequence[PointStatus]) -> list[PointStatus]:
        """Return those of the given points that are selected, see :meth:`of_plan`."""
        names = {p.name for p in self.of_plan(campaign)}
        return [
            s
            for s in points
            if s.point.name in names and (not self.states or s.word in self.states)
        ]


_RESOURCES = tuple(f"resources.{name}" for name in _SHAPE)


def select(
    where: str | None = None, states: Sequence[str] = (), points: Sequence[str] = ()
) -> Selection:
    """Read the conditions of a command line.

    Raises
    ------
    UsageError
        If the expression is not valid, or a state is unknown.
    """
    listed = [word for text in states for word in text.split(",")]
    for word in listed:
        if word not in WORDS:
            raise UsageError(
                f"--state {word}: there is no such state{suggest(word, WORDS)}; choose from "
                f"{', '.join(WORDS)}"
            )
    named = tuple(name for text in points for name in text.split(","))
    return Selection(parse(where, "--where") if where else None, tuple(listed), named)


def _facts(point: Point, base: Mapping[str, Any], empty: dict[str, Any]) -> ChainMap[str, Any]:
    """Return the values of a point by key; keys that only other points have are None."""
    own = {**point.settings, **point.values, "point": point.number}
    own |= {key: getattr(point.shape, name) for key, name in zip(_RESOURCES, _SHAPE, strict=True)}
    return ChainMap(own, base, empty)  # type: ignore[arg-type]
