"""Select parameters by patterns of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from hpcsamp.errors import UsageError
from hpcsamp.spelling import LISTED, suggest

Which = Callable[[str], bool] | Sequence[str]
"""Selects parameters by a function of the name, or by patterns such as ``head.*``."""


def matches(key: str, which: Which, names: Iterable[str], prefix: str = "") -> set[str]:
    """Return the names that a function or patterns select.

    Parameters
    ----------
    key
        Key of the configuration, for messages.
    which
        A function, or a list of patterns of :mod:`fnmatch`.
    names
        Names of all parameters.
    prefix
        Prefix of a wrapper before names; patterns may include it or not.

    Raises
    ------
    UsageError
        If a pattern matches no name; the message suggests similar ones.
    """
    names = list(names)
    if callable(which):
        return {name for name in names if which(name)}
    if isinstance(which, str):
        raise UsageError(f"{key} = {which!r}: a list of patterns is needed, e.g. [{which!r}]")
    found: set[str] = set()
    for pattern in which:
        own = {n for n in names if any(fnmatchcase(o, pattern) for o in (n, bare(n, prefix)))}
        if not own:
            raise UsageError(
                f"{key}: {pattern!r} matches no parameter{_near(pattern, names, prefix)}"
            )
        found |= own
    return found


def bare(name: str, prefix: str) -> str:
    """Return a name without the prefix of a wrapper."""
    return name.removeprefix(prefix)


def _near(pattern: str, names: Sequence[str], prefix: str) -> str:
    """Suggest names that a pattern may have been intended to match."""
    names = [bare(name, prefix) for name in names]
    whole = suggest(pattern, names)
    if whole:
        return whole
    inside = {name for name in names if name.startswith(f"{pattern.rstrip('.*')}.")}
    if inside:
        return f"; did you mean {pattern.rstrip('.*') + '.*'!r}?"
    parts = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    near = suggest(pattern.rstrip(".*"), parts)
    if near:
        return near
    more = f" and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
    return f"; choose from {', '.join(parts[:LISTED])}{more}"
