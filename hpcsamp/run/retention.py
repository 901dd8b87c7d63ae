"""Which checkpoints of a folder are kept, and which of them a run goes on from."""

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

#: The ranks of a process that is alone.
ALONE: Any = Comm()

#: Of a file beside the first of a checkpoint, see :func:`hpcsamp.run.saved.file_of`.
BESIDE = re.compile(r"(?P<first>.+\.pt)\.(?P<token>[0-9a-f]{8})\.(?P<rank>[0-9]+)")


def newest_whole(folder: Path, world: MPI.Comm = ALONE) -> tuple[Path | None, dict[Path, str]]:
    """Find the checkpoint that a run goes on from. Collective over ``world``.

    The ranks share the reading of its files. One rank looks which there are: a shared file system
    may show others an older folder.

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
        a seal or of a run with other draws; the same on all ranks.
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
        except Exception as e:  # whatever it is: the others wait for what this rank has found
            reason = str(damaged(path, e))
        reason = next((told for told in world.allgather(reason) if told), None)
        if reason is not None:
            wrong[path] = reason
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
        return path, wrong
    if wrong:
        raise CheckpointError(
            f"{next(iter(wrong.values()))}; no other of the {len(wrong)} checkpoints is whole: "
            f"remove {folder} to begin again"
        )
    return None, wrong


def put_aside(path: Path) -> Path:
    """Rename the first file of a damaged checkpoint, so that it is no longer taken for one.

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
    """Remove all but the ``keep`` newest, and what was left of writes that were killed.

    To be called by the process that may write the run, while no rank writes.
    """
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)  # its other files are left over then
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
    """Of which writing the files of a checkpoint are; empty if of none, None if it is not known."""
    aside = first.with_name(f"{first.name}.damaged")
    if not first.exists():
        return None if aside.exists() else ""
    try:
        return Saved(first).token
    except (CheckpointError, OSError):
        return None
