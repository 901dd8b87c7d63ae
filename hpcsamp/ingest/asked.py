"""Annotations that turn the arguments of a source into options of ``hpcsamp ingest``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Asked:
    """Option of ``hpcsamp ingest`` for an argument of a source, given in its annotation.

    For example ``Annotated[int, Asked("Hours between items.", least=1)]``.

    Attributes
    ----------
    help
        Line of ``--help``.
    option
        Name of the option, if it differs from that of the argument.
    least, most
        Bounds of a number.
    kind
        Type of the value on the command line, if it differs from that of the argument.
    """

    help: str
    option: str = ""
    least: float | None = None
    most: float | None = None
    kind: Any = None


#: Fraction of the items that is held out.
Part = Annotated[float, Asked("Fraction of the items held out as this split.", least=0, most=1)]
NormalizeY = Annotated[
    bool,
    Asked(
        "Standardise targets in training: for quantities such as a temperature. Not the default, "
        "because standardised counts are no longer counts."
    ),
]
SplitSeed = Annotated[int, Asked("Seed of the random split.", least=0)]
