"""Write the metrics of a run to trackers while it trains: ``[record] to = ["tensorboard"]``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpcsamp.report import trackers
from hpcsamp.training.callbacks import Callback, Moment


class Recording(Callback):
    """Copy new lines of ``metrics.jsonl`` to trackers after each evaluation, on rank 0 only.

    Each start also writes the lines of earlier starts, so a requeued run is one run of the tracker.

    Parameters
    ----------
    names
        Names of trackers that write files within the process: ``tensorboard``, ``mlflow``.

    Raises
    ------
    UsageError
        If one of them is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            trackers.installed(name)
        self._names = names
        self._open: list[trackers.Tracker] = []
        self._read = 0

    def begin(self, at: Moment) -> None:
        """Open the trackers in the run folder and write the lines of earlier starts."""
        if at.is_root:
            run = trackers.Identity.of(at.folder)
            self._open = [trackers.opened(n, run, at.folder / n) for n in self._names]
            self._copy(at.folder)

    def after_evaluation(self, at: Moment) -> None:
        """Write the lines since the last call."""
        if at.is_root:
            self._copy(at.folder)

    def end(self, at: Moment) -> None:
        """Write the last lines and close the files."""
        if at.is_root:
            self._copy(at.folder)
            for tracker in self._open:
                tracker.close()

    def _copy(self, folder: Path) -> None:
        lines = list(self._new_lines(folder / "metrics.jsonl"))
        for tracker in self._open:
            trackers.write(tracker, lines)

    def _new_lines(self, file: Path) -> Iterator[dict[str, Any]]:
        """Yield the lines since the last call; this process wrote them, or checked their seals."""
        with file.open("rb") as f:
            f.seek(self._read)
            for line in f:
                self._read += len(line)
                yield json.loads(line)
