"""Write the metrics of a run as files for TensorBoard, MLflow or Weights & Biases.

All metrics are read from ``metrics.jsonl``. A run may be written again while it continues and after
it was requeued. It stays one run of the tracker, identified by the random name in ``config.toml``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from hpcsamp.config import flatten
from hpcsamp.errors import UsageError
from hpcsamp.run.folder import RunFolder
from hpcsamp.sealing import text

TRACKERS = ("tensorboard", "mlflow", "wandb")
"""Names of the trackers, which are also those of their modules, their extras and their packages."""


@dataclass(frozen=True)
class Identity:
    """Names and settings that identify a run in a tracker.

    Attributes
    ----------
    name
        Name of the run's folder.
    identity
        Random name of the run, which does not change when the run is started again.
    settings
        Configuration by dotted key.
    """

    name: str
    identity: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Identity:
        """Read the names and the configuration of a run folder.

        Raises
        ------
        HpcsampError
            If the folder does not contain a run, or its configuration is damaged.
        """
        if not (folder / "metrics.jsonl").is_file():
            raise UsageError(f"{folder} has no metrics.jsonl: is it the folder of a run?")
        settings = flatten(text.read_toml(folder / "config.toml", None))
        for key in (text.SEAL, text.VERSION):
            settings.pop(key, None)
        name = folder.resolve().name
        return cls(name, str(settings.pop("run", "")) or name, settings)


class Tracker(Protocol):
    """A run that is open for writing in a tracker."""

    def add(self, event: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one line of ``metrics.jsonl``, named ``event/name``."""

    def close(self) -> None:
        """Write buffered numbers to the files."""


def installed(tracker: str) -> None:
    """Check that the package of a tracker is installed, without importing it.

    Raises
    ------
    UsageError
        If it is not installed; the message contains the command that installs it.
    """
    spec = importlib.util.find_spec(tracker)
    if spec is None or spec.origin is None:  # a folder of this name is not a package
        raise UsageError(f"{tracker} is not installed: pip install 'hpcsamp[{tracker}]'")


def opened(tracker: str, run: Identity, out: Path) -> Tracker:
    """Open a run in a tracker for writing.

    Parameters
    ----------
    tracker
        One of :data:`TRACKERS`.
    run
        The run.
    out
        Folder that holds the files of the tracker, of this and other runs.

    Raises
    ------
    HpcsampError
        If the tracker is not installed, or the folder cannot be written.
    """
    installed(tracker)
    module = importlib.import_module(f"hpcsamp.report.trackers.{tracker}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        return cast("Callable[[Identity, Path], Tracker]", module.Run)(run, out.resolve())
    except OSError as e:
        raise UsageError(f"cannot write {e.filename or out}: {e.strerror or e}") from e


def write(tracker: Tracker, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write lines of ``metrics.jsonl`` to a tracker; lines without a step or numbers are left out.

    Raises
    ------
    UsageError
        If a file of the tracker cannot be written.
    """
    try:
        for line in lines:
            event = str(line["event"])
            numbers = {
                f"{event}/{key}": float(value)
                for key, value in line.items()
                if key not in ("step", text.VERSION)
                and isinstance(value, int | float)
                and not isinstance(value, bool)
            }
            if numbers and isinstance(line.get("step"), int):
                tracker.add(event, line["step"], numbers)
    except OSError as e:
        raise UsageError(f"cannot write {e.filename or 'a tracker'}: {e.strerror or e}") from e


def export(folder: Path, tracker: str, out: Path) -> None:
    """Write the metrics of a run for a tracker, after a job or while it runs.

    Parameters
    ----------
    folder
        Folder of the run.
    tracker
        One of :data:`TRACKERS`.
    out
        Folder that holds the files of the tracker, of this and other runs.

    Raises
    ------
    HpcsampError
        If the run cannot be read, the tracker is not installed, or ``out`` cannot be written.
    """
    run = Identity.of(folder)
    lines = list(RunFolder(folder).events())  # detect damaged lines before anything is written
    target = opened(tracker, run, out)
    write(target, lines)
    target.close()
