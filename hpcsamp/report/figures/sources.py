"""Find the data of a figure: run folders, campaigns, or files of scaling records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.report.records import RunRecord, read_run
from hpcsamp.sealing import text

RECORDS = ("scaling*.jsonl", "scaling.json")
"""Patterns of the files that ``hpcsamp bench scaling`` writes, without and with ``--inside``."""


def folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that paths refer to: a campaign stands for the runs of its points.

    Raises
    ------
    UsageError
        If a path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.suffix == ".toml" and path.is_file():
            from hpcsamp.campaign.points import Campaign

            path = Campaign(path).folder
        if not path.exists():
            raise UsageError(
                f"{path} does not exist: expected a run folder, a campaign or scaling records"
            )
        points = path / "points"
        found += sorted(p for p in points.iterdir() if p.is_dir()) if points.is_dir() else [path]
    return found


def scaling_records(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the records of ``hpcsamp bench scaling``.

    Raises
    ------
    UsageError
        If there are none, or a file is damaged.
    """
    files = []
    for path in folders(paths):
        named = [path] if path.is_file() else [f for n in RECORDS for f in sorted(path.glob(n))]
        files += named
    found = [r for file in files for r in _lines(file) if r.get("event") == "scaling"]
    if not found:
        places = ", ".join(map(str, paths))
        raise UsageError(
            f"there are no records of hpcsamp bench scaling in {places}; write them with --out"
        )
    return found


def runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read the runs that have at least one validation.

    Raises
    ------
    UsageError
        If there are none.
    """
    read = [
        read_run(path)
        for path in folders(paths)
        if (path / "config.toml").is_file() and (path / "metrics.jsonl").is_file()
    ]
    found = [run for run in read if any(e.get("event") == "valid" for e in run.events)]
    if not found:
        raise UsageError(f"there is no run with a validation in {', '.join(map(str, paths))}")
    return found


def strategy(sample_size: int, data_size: int) -> str:
    """Return the name of a grid's parallelism: sampling, data, hybrid or one rank."""
    if sample_size * data_size == 1:
        return "one rank"
    if data_size == 1:
        return "sampling"
    return "data" if sample_size == 1 else "hybrid"


def _lines(file: Path) -> list[dict[str, Any]]:
    found, torn = text.read_lines(file)
    if torn or not found:
        raise UsageError(
            f"{file} contains no records" if not torn else f"{file}: the last line is incomplete"
        )
    return found
