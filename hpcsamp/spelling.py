"""Format values in messages, and suggest names for misspelt ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

NEAR = 0.7
"""Smallest similarity of a suggested name; 1 for equal names."""

LISTED = 40
"""Largest number of names in a message."""

SHOWN = 200
"""Largest number of characters of a value in a message."""


def shown(value: Any) -> str:
    """Format a value for a message; a long one is truncated."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints; deeply nested
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def counted(number: int, noun: str) -> str:
    """Format a number of things for a message, for example ``1 step`` or ``1,200 steps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def joined(names: Iterable[Any]) -> str:
    """Join names by commas for a message; if a name contains one, all names are quoted."""
    texts = [str(name) for name in names]
    return ", ".join(map(repr, texts) if any("," in text for text in texts) else texts)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'lr'?`` for the known name closest in spelling or meaning, or "".

    Keys are compared by their last parts: a key of the same table is preferred to one of another
    table.
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
    """Return a suggestion for an unknown key, or a list of its table's keys if none is similar."""
    known = list(known)
    section, dot, _ = name.rpartition(".")
    listed = [k for k in known if dot and k.rpartition(".")[0] == section]
    listed = listed or [k for k in known if "." not in k]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    choices = f"; choose from {', '.join(listed[:LISTED])}{more}" if listed else "; none is known"
    return suggest(name, known) or choices


def _likeness(one: str, other: str) -> float:
    """Return the similarity of two names, from 0 to 1, by spelling or meaning.

    Names have similar meanings if one contains the words of the other (``batch_size``, ``batch``)
    or consists of its initials (``learning_rate``, ``lr``).
    """
    words, others = one.lower().split("_"), other.lower().split("_")
    spelt = difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
    meant = set(words) <= set(others) or set(words) >= set(others)
    for parts, short in ((words, other), (others, one)):
        meant |= len(parts) > 1 and short.lower() == "".join(p[:1] for p in parts)
    return max(spelt, 0.8 if meant else 0.0)
