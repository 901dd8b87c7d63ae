"""The folder of a run: configuration, provenance, metrics, summary. Rank 0 writes it.

config.toml  data.json  noise.json  recalibration.json  provenance.json  metrics.jsonl
checkpoints/  laplace/  evaluation/  forecasts/  summary.json

All files are sealed (:mod:`hpcsamp.sealing`) for this run, whose random name is stored in
``config.toml``: a file of another run is refused.
"""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpcsamp.config import ParallelSection, RunConfig, apply_overrides, check, converted
from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.locks import Lock, locked
from hpcsamp.sealing import edits, text


class RunFolder:
    """Read and write the files of one run.

    Parameters
    ----------
    path
        Path of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: Lock | None = None
        self._run: str | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the run for writing within the block; the folder is created if needed.

        Raises
        ------
        UsageError
            If another process holds the lock, or the folder is not writable.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(f"cannot write the run folder {self.path}: {e.strerror}") from e
        try:
            with locked(self.path / ".lock", self.path) as self._lock:
                yield
        finally:
            self._lock = None
            with suppress(OSError):  # a refused run leaves no empty folder
                self.path.rmdir()

    def check(self) -> None:
        """Check before each write that this process still holds the lock.

        Raises
        ------
        HpcsampError
            If this process was suspended and another one has taken the lock.
        """
        if self._lock is not None:
            self._lock.check()

    def prepare(self, config: RunConfig, resume: bool) -> None:
        """Prepare the folder for a run and write its configuration.

        Raises
        ------
        UsageError
            If it contains a run and ``resume`` is not set, or it cannot be written.
        """
        if self.begun() and not resume:
            raise UsageError(
                f"{self.path} already contains a run; continue it with --resume, or choose another "
                f"--output"
            )
        known = resume and (self.path / "config.toml").exists()
        if known and not self.run:
            raise UsageError(
                f"{self.path} was begun before files were sealed and cannot be resumed; train "
                f"again with another --output"
            )
        run = self.run if known else secrets.token_hex(8)
        table = {"run": run, **config.model_dump(mode="json", exclude_none=True)}
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not known:  # left by a run that was refused before its first step
                (self.path / "provenance.json").unlink(missing_ok=True)
            write_whole(self.path / "config.toml", text.to_toml(table, run))
        except OSError as e:
            raise UsageError(f"cannot write the run folder {self.path}: {e.strerror}") from e
        self._run = run

    def begun(self) -> bool:
        """Whether the folder contains files of a run other than its configuration."""
        kept = (self.path / "metrics.jsonl", self.path / "summary.json")
        lines = any(p.exists() and p.stat().st_size > 0 for p in kept)
        return lines or any(self.checkpoints.glob("*"))

    @property
    def run(self) -> str:
        """Name of the run for which its files are sealed; empty if the run was begun without seals.

        Raises
        ------
        DataError
            If ``config.toml`` was changed after it was written.
        """
        if self._run is None:
            known = (self.path / "config.toml").is_file()
            self._run = str(self._table().get("run", "")) if known else ""
        return self._run

    def _table(self) -> dict[str, Any]:
        if not (self.path / "config.toml").is_file():
            raise UsageError(f"{self.path} is not a run folder: it has no config.toml")
        return text.read_toml(self.path / "config.toml", None)

    def config(self, settings: Sequence[str] = ()) -> RunConfig:
        """Read the configuration of the run, without its grid, which may change.

        Only the size of the model axis is kept, because the network may be too large for one rank.

        Parameters
        ----------
        settings
            ``KEY=VALUE`` changes, including those of the grid.

        Raises
        ------
        DataError
            If ``config.toml`` was changed after it was written.
        """
        table = converted(self._table())
        table.pop("run", None)
        usual = ParallelSection().model_dump(exclude={"model"})
        anywhere = [f"parallel.{k}={v}" for k, v in usual.items()]
        overridden = apply_overrides(table, [*anywhere, *settings])
        return check(overridden, str(self.path / "config.toml"))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a sealed JSON file of this run; numbers that are not finite become null."""
        write_whole(self.path / name, text.to_json(_strict(content), self.run))

    def make(self, name: str) -> None:
        """Create a folder of products, such as ``evaluation``.

        Raises
        ------
        UsageError
            If it cannot be created.
        """
        try:
            (self.path / name).mkdir(exist_ok=True)
        except OSError as e:
            raise UsageError(f"cannot write {self.path / name}: {e.strerror or e}") from e

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of this run.

        Raises
        ------
        DataError
            If it was changed after it was written.
        """
        return text.read_json(self.path / name, self.run, unsealed=not self.run)

    def add_start(self, provenance: dict[str, Any]) -> None:
        """Append one start (the first one, or a resumption) to ``provenance.json``."""
        self.check()
        known = (self.path / "provenance.json").exists()
        starts = self.read_json("provenance.json").get("starts") if known else []
        if not isinstance(starts, list):
            raise UsageError(f"{self.path / 'provenance.json'} has no list of starts")
        if edits.taken():
            provenance = {**provenance, "accepted_edits": edits.taken()}
        self.write_json("provenance.json", {"starts": [*starts, provenance]})

    def forget_after(self, step: int) -> None:
        """Remove metrics of steps after ``step``, where the run resumes.

        An evaluation after exactly this step is removed as well: it is newer than the checkpoint
        and will be repeated.
        """
        self.check()
        kept = [
            e
            for e in (self.events() if step else ())
            if e.get("step", 0) < step or (e.get("step", 0) == step and e["event"] != "valid")
        ]
        write_whole(self.path / "metrics.jsonl", text.to_lines(kept, self.run))

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of ``metrics.jsonl``; skip and report a last line cut off by a kill.

        Raises
        ------
        DataError
            If another line is damaged.
        """
        file = self.path / "metrics.jsonl"
        lines, torn = text.read_lines(file, self.run, unsealed=not self.run)
        if torn:
            sys.stderr.write(f"hpcsamp: the last line of {file} was cut off and is ignored\n")
        yield from lines

    def log(self, event: str, **values: Any) -> None:
        """Append one line to ``metrics.jsonl``."""
        self.check()
        text.append_line(self.path / "metrics.jsonl", {"event": event, **_strict(values)}, self.run)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        self.check()
        self.write_json("summary.json", summary)


def _strict(value: Any) -> Any:
    """Replace numbers that JSON cannot represent, such as NaN, by null."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
