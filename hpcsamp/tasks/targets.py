"""The targets of a dataset, as its manifest describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcsamp.data.roles import targets_of
from hpcsamp.errors import UsageError

if TYPE_CHECKING:
    from hpcsamp.data.manifest import Manifest


class TargetsError(UsageError):
    """Error raised if the targets of a dataset do not fit a task."""


@dataclass(frozen=True)
class Targets:
    """Description of the targets of a dataset.

    Attributes
    ----------
    kind
        Kind of task for which the dataset was made.
    shape
        Shape of the target of one item.
    classes
        Number of classes, ``C``, of labels ``0 .. C - 1``; None for numeric targets.
    class_names
        Names of the classes, if the dataset contains them.
    names
        Names of the positions along the first axis of a target, if the dataset contains them.
    standardised
        Whether the targets in batches are standardised.
    parts
        The targets by name, if the dataset has several.
    """

    kind: str
    shape: tuple[int, ...]
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    standardised: bool = False
    parts: Mapping[str, Targets] = field(default_factory=dict)

    @classmethod
    def of(cls, described: Manifest | Any) -> Targets:
        """Return the targets of a manifest, or of a source that can be ingested."""
        parts = {}
        for name, target in targets_of(described).items():
            spec, named = described.arrays[name], target.class_names
            parts[name] = cls(
                target.task,
                tuple(spec.shape),
                target.classes,
                None if named is None else tuple(named),
                tuple(spec.names),
                target.normalize,
            )
        return cls("several", (), parts=parts) if described.targets else parts["y"]

    def __str__(self) -> str:
        if self.parts:
            return ", ".join(f"{name} ({part})" for name, part in self.parts.items())
        of = "numbers" if self.classes is None else f"labels of {self.classes} classes"
        return f"{of} of shape {self.shape}"
