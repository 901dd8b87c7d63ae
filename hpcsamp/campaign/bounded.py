"""Arithmetic whose results are small: what a file asks for must not take all time or memory.

Sizes are compared before anything is computed, so that ``9**9**9`` costs as little as ``9**9``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

BITS = 1024
"""Of a whole number: as large as the largest float."""

LENGTH = 2000
"""Characters of a text, and items of a list with all lists in it."""

DIGITS = 100
"""Places that are rounded to, and widths that are formatted to."""

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
    """``left sign right``.

    Raises
    ------
    ValueError
        If the result would be larger than the bounds of this file.
    ArithmeticError, TypeError
        As Python does.
    """
    if sign == "**" and _whole(left) and _whole(right):
        bits = left.bit_length() * max(right, 0) if abs(left) > 1 else 1
    elif sign == "*" and _whole(left) and _whole(right):
        bits = left.bit_length() + right.bit_length()
    else:
        bits = 0
    if bits > 4 * BITS:  # an upper bound; the result itself is looked at below
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
    """The value itself.

    Raises
    ------
    ValueError
        If it is larger than the bounds of this file.
    """
    if _whole(value) and value.bit_length() > BITS:
        raise ValueError(f"the result has more than {BITS} bits")
    if _sized(value) and size(value) > LENGTH:
        raise ValueError(f"the result is longer than {LENGTH}")
    return value


def size(value: Any) -> int:
    """Characters of a text; items of a list and of the lists in it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return len(value) + sum(map(size, value))
    return 0


def _round(number: Any, places: Any = None) -> Any:
    if places is not None and (not _whole(places) or abs(places) > DIGITS):
        raise ValueError(f"round takes from {-DIGITS} to {DIGITS} places")
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
