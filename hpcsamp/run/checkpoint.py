"""Checkpoints: whole or absent, without pickles, enough to go on exactly.

``checkpoints/step-00000100.pt`` holds the parameters, the optimiser, the schedule, where the run
stands, its configuration and the dataset's uid. All draws are counted (law 1), so nothing of the
random state has to be kept, and a run may go on on another number of ranks.

There are as many files as ranks that write (:mod:`hpcsamp.run.taken`): beside the first one those
of other ranks, ``step-00000100.pt.1f2e3d4c.3``, named for one writing of it and the rank. They
count for nothing until the first file refers to them, which appears last and at once
(:mod:`hpcsamp.run.writing`). :mod:`hpcsamp.run.saved` reads them.

Since format version 2 they are sealed (:mod:`hpcsamp.sealing.archive`), since version 3 noise of
weights is drawn by place (:mod:`hpcsamp.streams.noise`), and those of several files are of version
4. Checkpoints older than version 3 can be evaluated, but no run goes on from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from hpcsamp.arguments import changes
from hpcsamp.errors import CheckpointError
from hpcsamp.files import whole
from hpcsamp.run.saved import VERSION, Saved
from hpcsamp.sealing import archive


def write(f: IO[bytes], content: Mapping[str, Any]) -> None:
    """Write a file of a checkpoint with its seal.

    Parameters
    ----------
    f
        Open for reading and writing (``"w+b"``), at its start.

    Raises
    ------
    OSError, RuntimeError
        If it cannot be written; ``torch.save`` raises the latter on a full disk.
    """
    torch.save(dict(content), f)
    archive.seal(f)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of one file, which appears under its name when it is whole and on disk.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there before is unharmed.
    """
    try:
        with whole(path) as part, part.open("w+b") as f:
            write(f, {"version": VERSION, **content})
    except (OSError, RuntimeError) as e:
        raise CheckpointError(f"cannot write checkpoint {path}: {e}") from e


def read(path: Path) -> dict[str, Any]:
    """Read all of a checkpoint, of which every byte is what was written.

    Returns
    -------
    dict
        What was saved, with the whole states, and its format ``version``. Of a checkpoint without
        a seal only the tensors and the outline of the rest are compared with their checksums.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or of another format version.
    """
    saved = Saved(path)
    saved.check([0, *saved.ranks])
    return saved.content | saved.states()


def step_path(folder: Path, step: int) -> Path:
    """First file of the checkpoint after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    return max(folder.glob("step-*.pt"), default=None)


def check_config(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of a run that computes something else.

    Raises
    ------
    CheckpointError
        Naming the first key that differs and both values.
    """
    before, after = flatten(saved), flatten(now)
    for name in sorted(before.keys() | after.keys()):
        if changes(name, saved) != "weights":
            continue
        if before.get(name) != after.get(name):
            raise CheckpointError(
                f"checkpoint {path} is of another configuration: {name} was "
                f"{before.get(name)!r}, is {after.get(name)!r}"
            )


def check_run(path: Path, saved: Mapping[str, Any], run: str) -> None:
    """Refuse a checkpoint that lies in the folder of another run, or under another step's name.

    Raises
    ------
    CheckpointError
        Naming both.
    """
    if saved.get("run", run) != run:
        raise CheckpointError(
            f"checkpoint {path} is of another run ({saved['run']}) than config.toml ({run})"
        )
    if path.name.startswith("step-") and path != step_path(path.parent, saved["step"]):
        raise CheckpointError(f"checkpoint {path} holds step {saved['step']}")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as ``{"optimizer.lr": ...}``."""
    out: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out
