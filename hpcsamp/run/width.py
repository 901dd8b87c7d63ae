"""Store the standard deviation of the noise, estimated after training, in the run folder.

``noise.json`` contains the width for each step of a checkpoint and each target (``y`` if there is
only one). Each target has one width per checkpoint, whatever the
number of samples of a later evaluation, so predictions need no dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpcsamp.errors import DataError
from hpcsamp.losses import FittedGaussian
from hpcsamp.run.folder import RunFolder

NAME = "noise.json"


def read(folder: RunFolder, step: int) -> dict[str, FittedGaussian]:
    """Read the estimates for the checkpoint of a step, by target; empty if there are none.

    Raises
    ------
    DataError
        If the file was changed after it was written.
    """
    if not (folder.path / NAME).is_file():
        return {}
    found = folder.read_json(NAME).get(str(step), {})
    try:
        return {n: FittedGaussian(float(w["std"]), str(w["source"])) for n, w in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise DataError(f"{folder.path / NAME} cannot be used: {type(e).__name__}") from e


def keep(
    folder: RunFolder, step: int, widths: Mapping[str, FittedGaussian], *, alone: bool = False
) -> None:
    """Write the estimates for a step.

    Parameters
    ----------
    alone
        Whether to remove the estimates of other steps.
    """
    there = not alone and (folder.path / NAME).is_file()
    others = folder.read_json(NAME) if there else {}
    own = {name: {"std": w.std, "source": w.source} for name, w in widths.items()}
    folder.write_json(NAME, {**others, str(step): own})


def forget_after(folder: RunFolder, step: int) -> None:
    """Remove estimates of steps after ``step``, where the run resumes."""
    path: Path = folder.path / NAME
    if not step:
        path.unlink(missing_ok=True)
    elif path.is_file():
        kept = {s: v for s, v in folder.read_json(NAME).items() if s.isdigit() and int(s) <= step}
        folder.write_json(NAME, kept)
