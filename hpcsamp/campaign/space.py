"""``[search]`` of a campaign file: the space of values, the metric, and the trials so far.

A search has no axes: its points are its trials, in the order in which Optuna proposed them. They
are kept in ``search.json`` in the folder of the campaign, so that all commands of a campaign can
read them without Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hpcsamp.config import unwritable
from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.sealing import text
from hpcsamp.spelling import shown

TRIALS = "search.json"


class Search(BaseModel):
    """Table ``[search]``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    metric: str = Field(
        description="column of the results table, e.g. valid.nll, or its last part: nll"
    )
    highest: bool | None = Field(
        None, description="true: higher values are better (default: by the metric's name)"
    )
    trials: int = Field(ge=1, le=100_000, description="number of points to try")
    at_once: int = Field(
        1, ge=1, le=10_000, description="number of points that wait or run at the same time"
    )
    sampler: Literal["tpe", "random", "quasi_random", "gp"] = "tpe"
    pruner: Literal["none", "median", "successive_halving", "hyperband"] = "none"
    seed: int = Field(0, ge=0, le=2**32 - 1)
    space: dict[str, Any] = Field(
        description="keys with a list of values, or {low, high, log = true, step}"
    )


def check(where: str, key: str, domain: Any) -> None:
    """Check the domain of a key of the space.

    Raises
    ------
    UsageError
        If it is neither a list of values nor a range of numbers.
    """
    found = f"{where}: [search.space] {key} = {shown(domain)}"
    if isinstance(domain, list):
        if not domain:
            raise UsageError(f"{found}: a list needs at least one value")
        for value in domain:
            if reason := unwritable(value):
                raise UsageError(f"{found}: {reason}")
        return
    if not isinstance(domain, dict) or not {"low", "high"} <= domain.keys():
        raise UsageError(f"{found}: expected a list of values, or {{ low = ..., high = ... }}")
    if unknown := sorted(domain.keys() - {"low", "high", "log", "step"}):
        raise UsageError(f"{found}: {unknown[0]!r} is unknown; low, high, log and step are allowed")
    numbers = [domain[k] for k in ("low", "high", "step") if k in domain]
    if any(
        not isinstance(n, int | float) or isinstance(n, bool) or not math.isfinite(n)
        for n in numbers
    ):
        raise UsageError(f"{found}: low, high and step must be finite numbers")
    if not isinstance(domain.get("log", False), bool):
        raise UsageError(f"{found}: log must be true or false")
    if domain["low"] > domain["high"]:
        raise UsageError(f"{found}: low is larger than high")
    if domain.get("log") and (domain["low"] <= 0 or "step" in domain):
        raise UsageError(f"{found}: a logarithmic range has a positive low and no step")
    if "step" in domain and domain["step"] <= 0:
        raise UsageError(f"{found}: step must be positive")


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """Return the values of the trials so far, each combination once, for the folder of a campaign.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    trials = _read(folder).get("trials", [])
    if not isinstance(trials, list) or not all(isinstance(t, dict) for t in trials):
        raise DataError(f"{folder / TRIALS} is damaged: the trials are missing")
    return trials


def read_pruned(folder: Path) -> set[str]:
    """Return the names of the points that the pruner ended; folder of a campaign."""
    return set(_read(folder).get("pruned", []))


def write_trials(
    folder: Path, trials: list[dict[str, Any]], pruned: Iterable[str] | None = None
) -> None:
    """Write the values of the trials so far, and the names of pruned points.

    Parameters
    ----------
    pruned
        The names; None for those in the file.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = {
            "trials": trials,
            "pruned": sorted(read_pruned(folder) if pruned is None else pruned),
        }
        write_whole(folder / TRIALS, text.to_json(table, folder.name))
    except OSError as e:
        raise UsageError(f"cannot write {folder / TRIALS}: {e.strerror}") from e


def _read(folder: Path) -> dict[str, Any]:
    file = folder / TRIALS
    return text.read_json(file, folder.name, unsealed=False) if file.exists() else {}
