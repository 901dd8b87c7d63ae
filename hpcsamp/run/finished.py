"""Detect that a run is finished; starting it again then leaves its folder unchanged."""

from __future__ import annotations

from typing import Any

from hpcsamp.config import RunConfig
from hpcsamp.run.folder import RunFolder


def finished(folder: RunFolder, config: RunConfig, step: int, steps: int) -> dict[str, Any] | None:
    """Return the summary of a finished run; None if it is unfinished or has changed.

    Parameters
    ----------
    folder
        Folder of the run.
    config
        Configuration of this start. The grid may differ from the previous one.
    step
        Step of the newest checkpoint.
    steps
        Steps of the whole run.

    Raises
    ------
    DataError
        If a file was changed after it was written.
    """
    if not (folder.path / "summary.json").is_file():
        return None
    summary = folder.read_json("summary.json")
    whole = step == steps or bool(summary.get("ended"))
    if not whole or (summary.get("steps"), summary.get("planned_steps")) != (step, steps):
        return None
    before, now = (
        c.model_dump(mode="json", exclude={"parallel"}) for c in (folder.config(), config)
    )
    return summary if before == now else None
