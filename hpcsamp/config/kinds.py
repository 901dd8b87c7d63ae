"""Values of another kind than a key's: pydantic alone takes "no" for false and true for 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def refused(given: Any, taken: Any) -> str:
    """Why a value is refused although it can be converted; empty if it is not.

    Parameters
    ----------
    given
        As it was written.
    taken
        What validation made of it: integers may have become floats, and lists tuples.
    """
    if not _finite(given):
        return "a finite number is needed"
    if not _same(given, taken):
        words = {bool: "true or false is needed", str: "a string is needed"}
        words |= {int: "a whole number is needed"} if isinstance(given, float) else {}
        return words.get(type(taken), "a number is needed")
    return ""


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _same(given: Any, taken: Any) -> bool:
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        return all(_same(given[k], taken[k]) for k in given.keys() & taken.keys())
    if isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        return all(map(_same, given, taken))
    if isinstance(given, float) and isinstance(taken, int):
        return False  # 3.0 for a whole number
    return all(isinstance(given, kind) == isinstance(taken, kind) for kind in (bool, str))
