"""A run's folder: configuration, provenance, metrics, summary. Rank 0 writes it.

config.toml  provenance.json  metrics.jsonl  checkpoints/  evaluation/  summary.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcsamp.config import ParallelSection, RunConfig, load, to_toml
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.locks import Lock, locked


class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: Lock | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that writes this run; the folder is made if it is not there.

        Raises
        ------
        UsageError
            If another process does, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(f"cannot write the run folder {self.path}: {e.strerror}") from e
        with locked(self.path / ".lock", self.path) as self._lock:
            try:
                yield
            finally:
                self._lock = None

    def check(self) -> None:
        """Before anything is written: is this process still the one that may?

        Raises
        ------
        HpcsampError
            If it was suspended and another one has gone on.
        """
        if self._lock is not None:
            self._lock.check()

    def prepare(self, config: RunConfig, resume: bool) -> None:
        """Make the folder ready to be written.

        Raises
        ------
        UsageError
            If it holds a run and ``resume`` was not asked for, or cannot be written.
        """
        if (self.path / "config.toml").exists() and not resume:
            raise UsageError(
                f"{self.path} already holds a run; go on with it by --resume, or choose another "
                f"--output"
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.toml", to_toml(config))
        except OSError as e:
            raise UsageError(f"cannot write the run folder {self.path}: {e.strerror}") from e

    def config(self, settings: Sequence[str] = ()) -> RunConfig:
        """The resolved configuration of the run, for any grid: its own is not part of what it is.

        Parameters
        ----------
        settings
            ``KEY=VALUE`` changes, those of the grid included.
        """
        if not (self.path / "config.toml").is_file():
            raise UsageError(f"{self.path} is not a run folder: it has no config.toml")
        anywhere = [f"parallel.{k}={v}" for k, v in ParallelSection().model_dump().items()]
        return load(self.path / "config.toml", [*anywhere, *settings])

    def add_start(self, provenance: dict[str, Any]) -> None:
        """Append one start (the first, or a resumption) to ``provenance.json``."""
        self.check()
        file = self.path / "provenance.json"
        starts = json.loads(file.read_text())["starts"] if file.exists() else []
        write_whole(file, json.dumps({"starts": [*starts, provenance]}, indent=1) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop metrics of later steps: the run goes on from a checkpoint of ``step``.

        An evaluation after that very step goes, too: it is newer than the checkpoint and is done
        again.
        """
        self.check()
        kept = [
            e
            for e in self.events()
            if e.get("step", 0) < step or (e.get("step", 0) == step and e["event"] != "valid")
        ]
        lines = "".join(json.dumps(e) + "\n" for e in kept)
        write_whole(self.path / "metrics.jsonl", lines)

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line cut off by a kill is left out.

        Raises
        ------
        HpcsampError
            If another line is damaged.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as e:
                if number == len(lines):
                    return
                raise HpcsampError(f"{file} is damaged in line {number} of {len(lines)}") from e

    def log(self, event: str, **values: Any) -> None:
        """Append one line to ``metrics.jsonl``."""
        self.check()
        line = json.dumps({"event": event, **{k: _plain(v) for k, v in values.items()}})
        with (self.path / "metrics.jsonl").open("a") as f:
            f.write(line + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        self.check()
        write_whole(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
