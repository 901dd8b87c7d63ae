"""Weights & Biases: an offline run, to be uploaded by ``wandb sync`` where there is a network.

wandb starts a process of its own, which MPI does not allow for: it is never used within a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpcsamp.report.trackers import Identity


class Run:
    """An offline run in ``out/wandb``; uploads of one identity become one run of the project."""

    def __init__(self, run: Identity, out: Path) -> None:
        import wandb

        self._run = wandb.init(
            mode="offline",
            dir=str(out),
            project="hpcsamp",
            name=run.name,
            id=run.identity,
            resume="allow",
            config=dict(run.settings),
            settings=wandb.Settings(console="off", silent=True),
        )

    def add(self, event: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one line; the step of a training step and of an evaluation agree."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """End the process of wandb, which writes what is buffered."""
        self._run.finish()
