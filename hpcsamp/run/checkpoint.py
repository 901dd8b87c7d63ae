"""Write and read checkpoints, which are whole or absent and contain no pickled code.

``checkpoints/step-00000100.pt`` holds the parameters, the optimiser, the schedule, the progress of
the run, its configuration and the uid of the dataset. All random draws are identified by counters
(design law 1), so no state of a generator has to be saved, and a run can be resumed on another
number of ranks.

Each rank that holds a part of the state writes one file (:mod:`hpcsamp.run.taken`): the first file,
and for each other rank a file such as ``step-00000100.pt.1f2e3d4c.3``, whose name contains a random
token of this checkpoint and the rank. These are ignored until the first file refers to them, which
appears last and atomically (:mod:`hpcsamp.run.writing`). :mod:`hpcsamp.run.saved` reads them.

Since format version 2 checkpoints are sealed (:mod:`hpcsamp.sealing.archive`), since version 3
weight noise is drawn by place (:mod:`hpcsamp.streams.noise`); checkpoints of several files have
version 4. Checkpoints older than version 3 can be evaluated, but not resumed.
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
        File open for reading and writing (``"w+b"``), at its start.

    Raises
    ------
    OSError, RuntimeError
        If it cannot be written; ``torch.save`` raises RuntimeError on a full disk.
    """
    torch.save(dict(content), f)
    archive.seal(f)


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of one file atomically.

    Raises
    ------
    CheckpointError
        If it cannot be written; an existing file is then unchanged.
    """
    try:
        with whole(path) as part, part.open("w+b") as f:
            write(f, {"version": VERSION, **content})
    except (OSError, RuntimeError) as e:
        raise CheckpointError(f"cannot write checkpoint {path}: {e}") from e


def read(path: Path) -> dict[str, Any]:
    """Read a whole checkpoint and verify its checksums.

    Returns
    -------
    dict
        Saved content with the whole states, and the format ``version``. In a checkpoint without a
        seal, only the tensors and the structure of the rest are protected by checksums.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or of another format version.
    """
    saved = Saved(path)
    saved.check([0, *saved.ranks])
    return saved.content | saved.states()


def step_path(folder: Path, step: int) -> Path:
    """Path of the first file of the checkpoint after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def latest(folder: Path) -> Path | None:
    """Path of the newest checkpoint, or None."""
    return max(folder.glob("step-*.pt"), default=None)


def check_config(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume a run if its configuration would change the results.

    Raises
    ------
    CheckpointError
        If a key differs; the message contains the first one, with both values.
    """
    before, after = flatten(saved), flatten(now)
    for name in sorted(before.keys() | after.keys()):
        if changes(name, saved) != "weights":
            continue
        if before.get(name) != after.get(name):
            raise CheckpointError(
                f"checkpoint {path} belongs to another configuration: {name} was "
                f"{before.get(name)!r}, but is now {after.get(name)!r}"
            )


def check_run(path: Path, saved: Mapping[str, Any], run: str) -> None:
    """Refuse a checkpoint in the folder of another run, or with the file name of another step.

    Raises
    ------
    CheckpointError
        If the run or the step differs; the message contains both.
    """
    if saved.get("run", run) != run:
        raise CheckpointError(
            f"checkpoint {path} belongs to another run ({saved['run']}) than config.toml ({run})"
        )
    if path.name.startswith("step-") and path != step_path(path.parent, saved["step"]):
        raise CheckpointError(
            f"checkpoint {path} contains step {saved['step']}, which differs from its name"
        )


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys, e.g. ``{"optimizer.lr": ...}``."""
    out: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out
