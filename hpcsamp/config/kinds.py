"""Check the types of values more strictly than pydantic, which takes "no" for false."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def refused(given: Any, taken: Any) -> str:
    """Explain why a value is refused although pydantic can convert it; empty if it is accepted.

    Parameters
    ----------
    given
        The value in the configuration.
    taken
        The value after validation: integers may have become floats, and lists tuples.
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
        return False  # 3.0 where an integer is needed
    return all(isinstance(given, kind) == isinstance(taken, kind) for kind in (bool, str))
