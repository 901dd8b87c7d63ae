"""Choose which checkpoints of a folder are kept and from which one a run resumes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcsamp.errors import CheckpointError
from hpcsamp.grid import together
from hpcsamp.run.saved import OTHER_DRAWS, UNSEALED, Saved, damaged
from hpcsamp.serial import Comm

if TYPE_CHECKING:
    from mpi4py import MPI

#: Communicator of a single process.
ALONE: Any = Comm()

#: Suffix of the further files of a checkpoint, see :func:`hpcsamp.run.saved.file_of`.
BESIDE = re.compile(r"(?P<first>.+\.pt)\.(?P<token>[0-9a-f]{8})\.(?P<rank>[0-9]+)")


def newest_whole(folder: Path, world: MPI.Comm = ALONE) -> tuple[Path | None, dict[Path, str]]:
    """Find the newest whole checkpoint, from which a run resumes. Collective over ``world``.

    The ranks divide the reading of its files. Only one rank lists the folder, because a shared file
    system may show other ranks an older state.

    Returns
    -------
    path
        None if there are no checkpoints at all.
    damaged
        The reason for each newer checkpoint that is damaged.

    Raises
    ------
    CheckpointError
        If there are checkpoints but none is whole, or the newest whole one has a format without a
        seal or other random draws; the same on all ranks.
    """
    rank, size = world.Get_rank(), world.Get_size()
    paths: list[Path] = []
    with together(world):
        if rank == 0:
            paths = sorted(folder.glob("step-*.pt"), reverse=True)
    wrong: dict[Path, str] = {}
    for path in world.bcast(paths):
        version, reason = None, None
        try:
            saved = Saved(path)
            version = saved.content["version"]
            saved.check([0, *saved.ranks][rank::size])
        except CheckpointError as e:
            reason = str(e)
        except Exception as e:  # any error: the other ranks wait for this rank's result
            reason = str(damaged(path, e))
        reason = next((r for r in world.allgather(reason) if r), None)
        if reason is not None:
            wrong[path] = reason
            continue
        if version == UNSEALED:
            raise CheckpointError(
                f"checkpoint {path} has format version {UNSEALED}, which has no seal: evaluate and "
                f"predict can read it, but training cannot resume from it; train again with "
                f"another --output"
            )
        if version == OTHER_DRAWS:
            raise CheckpointError(
                f"checkpoint {path} has format version {OTHER_DRAWS}; the draws of weights have "
                f"changed since then: evaluate and predict can read it, but training cannot resume "
                f"from it; train again with another --output"
            )
        return path, wrong
    if wrong:
        raise CheckpointError(
            f"{next(iter(wrong.values()))}; none of the {len(wrong)} checkpoints is whole: "
            f"remove {folder} to start again"
        )
    return None, wrong


def put_aside(path: Path) -> Path:
    """Rename the first file of a damaged checkpoint, so that it no longer counts as one.

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
    """Remove all but the ``keep`` newest checkpoints, and files of writes that were killed.

    Call it in the process that may write the run, while no rank is writing.
    """
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)  # its other files are removed below
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
    tokens: dict[str, str | None] = {}
    for path in sorted(folder.iterdir()):
        found = BESIDE.fullmatch(path.name)
        if found is None:
            continue
        first = found["first"]
        if first not in tokens:
            tokens[first] = _token(folder / first)
        if tokens[first] not in (None, found["token"]):
            path.unlink(missing_ok=True)


def _token(first: Path) -> str | None:
    """Token of the files of a checkpoint; empty for a single file, None if it cannot be read."""
    aside = first.with_name(f"{first.name}.damaged")
    if not first.exists():
        return None if aside.exists() else ""
    try:
        return Saved(first).token
    except (CheckpointError, OSError):
        return None
