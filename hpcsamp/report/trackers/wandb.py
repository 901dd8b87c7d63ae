"""Write offline runs of Weights & Biases, which ``wandb sync`` uploads where there is a network.

The package wandb starts a process, which is not safe under MPI, so it is never used in a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpcsamp.report.trackers import Identity


class Run:
    """An offline run in ``out/wandb``; all uploads with one identity become the same online run."""

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
        """Write the numbers of one line; training and evaluation use the same step numbers."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """End the process of wandb, which first writes buffered numbers."""
        self._run.finish()
