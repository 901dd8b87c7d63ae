"""The description of a loss: formula, class, communication between ranks, cost, source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Shared:
    """One exchange of a loss over a sample group.

    Attributes
    ----------
    what
        Quantities that the ranks exchange, in words.
    number
        Number of bytes in float32 for each combination of the factors in ``each``.
    each
        Factors that ``number`` is multiplied by, one letter each: ``S`` samples, ``B`` items of
        a sample group, ``V`` values of an item.
    over_ranks
        Whether the bytes are divided over the ``P`` ranks, so that each rank sends only its part.
    way
        ``"sum"``: all ranks combine equal quantities. ``"all-to-all"``: each rank sends a different
        part to each of the others.
    """

    what: str
    number: int
    each: str = ""
    over_ranks: bool = False
    way: Literal["sum", "all-to-all"] = "sum"

    def bytes(self, samples: int, batch: int, values: int, ranks: int) -> float:
        """Bytes that a rank sends in a step for S samples, B items, V values and P ranks."""
        known = {"S": samples, "B": batch, "V": values}
        size = float(self.number * math.prod(known[letter] for letter in self.each))
        return size / ranks if self.over_ranks else size


@dataclass(frozen=True)
class About:
    """The description of a loss: a row of the README's table and the end of its docstring.

    Attributes
    ----------
    formula
        The loss of one item, in the outputs ``y_s`` of all samples and the target ``t``.
    kind
        ``linear`` (averaging the ranks' gradients is exact), ``mixture``, ``moments``, ``pairwise``
        or ``joint``.
    cost
        Cost of the loss itself, in addition to the S forward and backward passes.
    source
        The paper or program that the loss comes from.
    exchanges
        The exchanges between the ranks of a sample group in one step, in order.
    """

    formula: str
    kind: Literal["linear", "mixture", "moments", "pairwise", "joint"]
    cost: str
    source: str
    exchanges: tuple[Shared, ...] = ()

    @property
    def shares(self) -> str:
        """Quantities that the ranks exchange, in words."""
        return ", then ".join(e.what for e in self.exchanges) or "nothing"

    @property
    def bytes(self) -> str:
        """Bytes of all exchanges of a step as a formula, e.g. ``4·S·B·V + 8·B``."""
        terms: dict[str, int] = {}
        for e in self.exchanges:
            factors = "".join(f"·{letter}" for letter in e.each) + "/P" * e.over_ranks
            terms[factors] = terms.get(factors, 0) + e.number
        return " + ".join(f"{number}{factors}" for factors, number in terms.items()) or "0"

    def __str__(self) -> str:
        return (
            f"    Formula: ``{self.formula}``\n"
            f"    Class: {self.kind}. Shared over the group: {self.shares}, {self.bytes} bytes a "
            f"step in float32.\n"
            f"    Cost: {self.cost}. Source: {self.source}.\n"
        )
