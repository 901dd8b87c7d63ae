"""Names and values in messages: what is shown of them, and what was perhaps meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

NEAR = 0.7
"""Least similarity of a name that is suggested, 1 for an equal one."""

LISTED = 40
"""Most names that a message lists."""

SHOWN = 200
"""Most characters of a value that a message shows."""


def shown(value: Any) -> str:
    """A value as a message shows it: cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints; deeply nested
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'lr'?`` for the known name nearest in spelling or meaning, or nothing.

    Keys are compared by their last parts: one of the same table comes first, then the right key in
    the wrong table.
    """
    section, _, last = name.rpartition(".")
    best = (0.0, "")
    for other in known:
        table, _, key = other.rpartition(".")
        near = _likeness(last, key)
        same = _likeness(section, table) if section else 0.5
        if near >= NEAR and (same >= 0.5 or near >= 0.85):
            best = max(best, (near + same / 2, other), key=lambda found: found[0])
    return f"; did you mean {best[1]!r}?" if best[1] else ""


def hint(name: str, known: Iterable[str]) -> str:
    """A suggestion for an unknown key, or else the keys of its table."""
    known = list(known)
    section, dot, _ = name.rpartition(".")
    listed = [k for k in known if dot and k.rpartition(".")[0] == section]
    listed = listed or [k for k in known if "." not in k]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    there = f"; there is {', '.join(listed[:LISTED])}{more}" if listed else "; there is none"
    return suggest(name, known) or there


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, by spelling; or by meaning, where one has the other's words or is its initials:
    ``batch_size`` and ``batch``, ``learning_rate`` and ``lr``.
    """
    words, others = one.lower().split("_"), other.lower().split("_")
    spelt = difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
    meant = set(words) <= set(others) or set(words) >= set(others)
    for parts, short in ((words, other), (others, one)):
        meant |= len(parts) > 1 and short.lower() == "".join(p[:1] for p in parts)
    return max(spelt, 0.8 if meant else 0.0)
