"""The targets of a set, as its manifest describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcsamp.data.roles import targets_of
from hpcsamp.errors import UsageError

if TYPE_CHECKING:
    from hpcsamp.data.manifest import Manifest


class TargetsError(UsageError):
    """Targets of a set that are not what a task needs."""


@dataclass(frozen=True)
class Targets:
    """The targets of a set.

    Attributes
    ----------
    kind
        The task that the set is made for.
    shape
        Of the target of an item.
    classes
        ``C`` of labels ``0 .. C - 1``; None for numbers.
    class_names
        Of the classes, where the set has them.
    names
        Along the first axis of a target, where the set has them.
    standardised
        Whether batches hold them in standard deviations.
    parts
        Of a set with several targets, each by its name.
    """

    kind: str
    shape: tuple[int, ...]
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    standardised: bool = False
    parts: Mapping[str, Targets] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Manifest | Any) -> Targets:
        """Of a manifest, or of a source that might become a set."""
        parts = {}
        for name, target in targets_of(told).items():
            spec, named = told.arrays[name], target.class_names
            parts[name] = cls(
                target.task,
                tuple(spec.shape),
                target.classes,
                None if named is None else tuple(named),
                tuple(spec.names),
                target.normalize,
            )
        return cls("several", (), parts=parts) if told.targets else parts["y"]

    def __str__(self) -> str:
        if self.parts:
            return ", ".join(f"{name} ({part})" for name, part in self.parts.items())
        of = "numbers" if self.classes is None else f"labels of {self.classes} classes"
        return f"{of} of shape {self.shape}"
