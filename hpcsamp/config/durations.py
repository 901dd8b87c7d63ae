"""Parse durations in the notation of batch systems."""

from __future__ import annotations


def seconds(duration: str | float) -> float:
    """Convert a duration in Slurm's notation to seconds.

    Parameters
    ----------
    duration
        Minutes (a number, or ``"90"``), ``"minutes:seconds"``, ``"hours:minutes:seconds"``,
        ``"days-hours"``, ``"days-hours:minutes"`` or ``"days-hours:minutes:seconds"``.

    Raises
    ------
    ValueError
        If the duration has none of these forms, or is not positive and finite.
    """
    text = str(duration).strip()
    days, dash, rest = text.rpartition("-")
    try:
        parts = [float(p) for p in rest.split(":")]
        whole = float(days) if dash else 0.0
    except ValueError:
        parts, whole = [], 0.0
    if dash and 1 <= len(parts) <= 3:
        parts += [0.0] * (3 - len(parts))
    elif not dash and len(parts) <= 2:
        parts = [0.0, *parts, 0.0][:3]
    total = 0.0
    if len(parts) == 3 and min(parts) >= 0 and whole >= 0:
        total = whole * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    if not 0 < total < float("inf"):
        raise ValueError(
            f"{text!r} is not a duration: write minutes, or e.g. 01:30:00 (hours:minutes:seconds)"
        )
    return total
