"""Checkpoints: whole or absent, without pickles, enough to go on exactly.

``checkpoints/step-00000100.pt`` holds the parameters, the optimiser, the schedule, where the run
stands, its configuration and the dataset's uid. All draws are counted (law 1), so nothing of the
random state has to be kept, and a run may go on on another number of ranks.

Since format version 2 they are sealed (:mod:`hpcsamp.sealing.archive`), and since version 3 noise
of weights is drawn by place (:mod:`hpcsamp.streams.noise`). Older checkpoints can be evaluated, but
no run goes on from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hpcsamp.arguments import changes
from hpcsamp.config import converted
from hpcsamp.errors import CheckpointError
from hpcsamp.files import whole
from hpcsamp.sealing import DamagedError, archive

VERSION = 3
UNSEALED = 1
"""The last format version without a seal."""
OTHER_DRAWS = 2
"""The last format version of runs whose weights were drawn from other streams."""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint so that it appears under its name only when it is whole and on disk.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there before is unharmed.
    """
    try:
        with whole(path) as part, part.open("w+b") as f:
            torch.save({"version": VERSION, **content}, f)
            archive.seal(f)
    except (OSError, RuntimeError) as e:  # torch.save raises RuntimeError on a full disk
        raise CheckpointError(f"cannot write checkpoint {path}: {e}") from e


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint whose every byte is what was written.

    Returns
    -------
    dict
        What was saved, and its format ``version``. In :data:`UNSEALED` only the tensors and the
        outline of the rest have been compared with their checksums.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or of another format version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        sealed = archive.check(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except DamagedError as e:
        raise _damaged(path, e) from None
    except Exception as e:  # torch reports damage as RuntimeError, EOFError, UnpicklingError ...
        raise _damaged(path, str(e).split("\n")[0] or type(e).__name__) from e
    found = content.get("version") if isinstance(content, dict) else None
    if found not in (UNSEALED, OTHER_DRAWS, VERSION):
        raise CheckpointError(f"checkpoint {path} has format version {found}, this is {VERSION}")
    if found != UNSEALED and not sealed:
        raise _damaged(path, "its seal is missing")
    return {**content, **({"config": converted(content["config"])} if "config" in content else {})}


def _version(path: Path) -> Any:
    """The format version of a whole checkpoint, without reading its tensors."""
    try:
        return torch.load(path, map_location="meta", mmap=True, weights_only=True)["version"]
    except Exception as e:
        raise _damaged(path, str(e).split("\n")[0] or type(e).__name__) from e


def _damaged(path: Path, reason: object) -> CheckpointError:
    size = path.stat().st_size if path.exists() else 0
    return CheckpointError(
        f"checkpoint {path} ({size} bytes) is damaged ({reason}); train --resume goes on from the "
        f"newest whole one, evaluate and predict read another by --checkpoint"
    )


def step_path(folder: Path, step: int) -> Path:
    """File of the checkpoint after ``step`` steps."""
    return folder / f"step-{step:08d}.pt"


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    return max(folder.glob("step-*.pt"), default=None)


def newest_whole(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """Find the checkpoint that a run goes on from.

    Returns
    -------
    path
        None if there are no checkpoints at all.
    damaged
        What is wrong with each newer one.

    Raises
    ------
    CheckpointError
        If there are checkpoints and none is whole, or the newest whole one is of a format without
        a seal or of a run with other draws.
    """
    damaged: dict[Path, str] = {}
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            version = _version(path) if archive.check(path) else read(path)["version"]
        except (CheckpointError, DamagedError, OSError) as e:
            damaged[path] = str(e if isinstance(e, CheckpointError) else _damaged(path, e))
            continue
        if version == UNSEALED:
            raise CheckpointError(
                f"checkpoint {path} has format version {UNSEALED}, which has no seal: evaluate and "
                f"predict read it, but no run goes on from it; train anew into another --output"
            )
        if version == OTHER_DRAWS:
            raise CheckpointError(
                f"checkpoint {path} has format version {OTHER_DRAWS}, since when the draws of "
                f"weights have changed: evaluate and predict read it, but no run goes on from it "
                f"with other noise; train anew into another --output"
            )
        return path, damaged
    if damaged:
        raise CheckpointError(
            f"{next(iter(damaged.values()))}; no other of the {len(damaged)} checkpoints is whole: "
            f"remove {folder} to begin again"
        )
    return None, damaged


def put_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is no longer taken for one.

    Raises
    ------
    CheckpointError
        If it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        return path.replace(aside)
    except OSError as e:
        raise CheckpointError(f"cannot rename the damaged checkpoint {path}: {e.strerror}") from e


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
