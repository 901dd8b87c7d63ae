"""Arithmetic with bounded results, so that a campaign file cannot exhaust time or memory.

Sizes are checked before anything is computed, so that ``9**9**9`` is refused at once.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

BITS = 1024
"""Largest size of a whole number in bits; the largest float has as many."""

LENGTH = 2000
"""Largest number of characters of a text, and of items of a list including nested lists."""

DIGITS = 100
"""Largest number of decimal places in rounding, and largest width in formatting."""

_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
OPERATORS = tuple(_PLAIN)


def operate(sign: str, left: Any, right: Any) -> Any:
    """Compute ``left sign right``.

    Raises
    ------
    ValueError
        If the result would exceed the bounds of this file.
    ArithmeticError, TypeError
        As in Python.
    """
    if sign == "**" and _whole(left) and _whole(right):
        bits = left.bit_length() * max(right, 0) if abs(left) > 1 else 1
    elif sign == "*" and _whole(left) and _whole(right):
        bits = left.bit_length() + right.bit_length()
    else:
        bits = 0
    if bits > 4 * BITS:  # an upper bound; the result itself is checked below
        raise ValueError(f"the result has more than {BITS} bits")
    if sign == "*" and _sized(left) != _sized(right):
        content, times = (left, right) if _sized(left) else (right, left)
        if _whole(times) and size(content) * times > LENGTH:
            raise ValueError(f"the result is longer than {LENGTH}")
    if sign == "%" and isinstance(left, str):
        for spec in re.findall(r"%[^a-zA-Z%]*", left):
            if "*" in spec or any(int(n) > DIGITS for n in re.findall(r"[0-9]{1,10}", spec)):
                raise ValueError(f"a width of more than {DIGITS}")
    return bounded(_PLAIN[sign](left, right))


def bounded(value: Any) -> Any:
    """Return the value if it is within the bounds of this file.

    Raises
    ------
    ValueError
        If it exceeds them.
    """
    if _whole(value) and value.bit_length() > BITS:
        raise ValueError(f"the result has more than {BITS} bits")
    if _sized(value) and size(value) > LENGTH:
        raise ValueError(f"the result is longer than {LENGTH}")
    return value


def size(value: Any) -> int:
    """Count the characters of a text, or the items of a list and of the lists in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return len(value) + sum(map(size, value))
    return 0


def _round(number: Any, places: Any = None) -> Any:
    if places is not None and (not _whole(places) or abs(places) > DIGITS):
        raise ValueError(f"round accepts {-DIGITS} to {DIGITS} decimal places")
    return round(number, places)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "bool": bool,
    "ceil": math.ceil,
    "exp": math.exp,
    "float": float,
    "floor": math.floor,
    "int": int,
    "len": len,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "max": max,
    "min": min,
    "round": _round,
    "sqrt": math.sqrt,
    "str": str,
}


def _whole(value: Any) -> bool:
    return isinstance(value, int)


def _sized(value: Any) -> bool:
    return isinstance(value, str | list | tuple)
