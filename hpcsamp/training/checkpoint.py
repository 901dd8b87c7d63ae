"""Checkpoints: whole or absent, without pickles, enough to go on exactly.

``checkpoints/step-00000100.pt`` holds the parameters, the optimiser, the schedule, where the run
stands, its configuration and the dataset's uid. All draws are counted (law 1), so nothing of the
random state has to be kept, and a run may go on on another number of ranks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hpcsamp.errors import CheckpointError

VERSION = 1

#: Keys that may differ between a checkpoint and the run that goes on from it: they do not change
#: what is computed.
FREE = (
    "parallel.",
    "evaluation.",
    "data.path",
    "data.reader",
    "data.verify",
    "method.samples_per_pass",
    "optimizer.sharded",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.keep",
    "training.log_every",
    "training.steps",
    "training.memory_check",
    "training.time_",
)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint so that it appears under its name only when it is whole and on disk.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there before is unharmed.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as f:
            torch.save({"version": VERSION, **content}, f)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive, too
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as e:  # torch.save raises RuntimeError on a full disk
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write checkpoint {path}: {e}") from e


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        If it is missing, truncated, or of another format version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as e:  # torch reports damage as RuntimeError, EOFError, UnpicklingError ...
        reason = str(e).split("\n")[0] or type(e).__name__
        raise CheckpointError(
            f"checkpoint {path} ({path.stat().st_size} bytes) is damaged ({reason}); "
            f"remove it to go on from the one before"
        ) from e
    found = content.get("version") if isinstance(content, dict) else None
    if found != VERSION:
        raise CheckpointError(f"checkpoint {path} has format version {found}, this is {VERSION}")
    return dict(content)


def step_path(folder: Path, step: int) -> Path:
    """File of the checkpoint after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    return max(folder.glob("step-*.pt"), default=None)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest, and leftovers of writes that were killed."""
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def check_config(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of a run that computes something else.

    Raises
    ------
    CheckpointError
        Naming the first key that differs and both values.
    """
    before, after = flatten(saved), flatten(now)
    for name in sorted(before.keys() | after.keys()):
        if name.startswith(FREE):
            continue
        if before.get(name) != after.get(name):
            raise CheckpointError(
                f"checkpoint {path} is of another configuration: {name} was "
                f"{before.get(name)!r}, is {after.get(name)!r}"
            )


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as ``{"optimizer.lr": ...}``."""
    out: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out
