"""What ``hpcsamp ingest`` asks for: marks in the annotations of a source's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Asked:
    """How ``hpcsamp ingest`` asks for an argument of a source, in its annotation:
    ``Annotated[int, Asked("Hours between items.", least=1)]``.

    Attributes
    ----------
    help
        Its line of ``--help``.
    option
        Name of the option, where it is not that of the argument.
    least, most
        Bounds of a number.
    kind
        Type of what is written, where it is not that of the argument.
    """

    help: str
    option: str = ""
    least: float | None = None
    most: float | None = None
    kind: Any = None


#: Parts of the items that are held out.
Part = Annotated[float, Asked("Part of the items held out as this split.", least=0, most=1)]
NormalizeY = Annotated[bool, Asked("Standardise targets in training.")]
SplitSeed = Annotated[int, Asked("Seed of the random split.", least=0)]
