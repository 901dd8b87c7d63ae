"""Progress display of a run: a bar on a terminal or in a notebook, lines in a batch log."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING, Any

from hpcsamp.runtime import on_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Reporter:
    """Prints progress on rank 0, and nothing on the others.

    Parameters
    ----------
    active
        Whether this rank prints.
    total
        Number of steps of the whole run.
    done
        Number of steps done before this start.
    each
        Whether a batch log has a line for each step.
    warns
        Whether this rank prints warnings.
    """

    def __init__(
        self, active: bool, total: int, done: int = 0, *, each: bool = False, warns: bool = True
    ) -> None:
        self._each, self._warns = each, warns
        self._total = total
        self._console: Console | None = None
        self._bar: Progress | None = None
        self._last = time.monotonic()
        if not active:  # a thousand ranks need not read the files of rich
            return
        from rich.console import Console

        watched = on_terminal() or _in_notebook()
        self._console = Console(highlight=False, force_terminal=watched)
        if watched:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]:.4f}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, completed=done, epoch=0, loss=0.0)
            self._bar.start()

    def step(self, step: int, epoch: int, loss: float) -> None:
        """Report a step. A batch log does not have a line for every step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=epoch, loss=loss)
        elif self._each or time.monotonic() - self._last > 30:
            self._last = time.monotonic()
            self.say(f"step {step}/{self._total}  epoch {epoch}  loss {loss:.4f}")

    def evaluated(self, split: str, epoch: int, step: int, metrics: dict[str, Any]) -> None:
        """Print a line with the metrics of an evaluation."""
        shown = "  ".join(
            f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float) and k != "items"
        )
        self.say(f"epoch {epoch}  step {step}  {split}: {shown}")

    def say(self, line: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(line, soft_wrap=True, markup=False)
            sys.stdout.flush()

    def warn(self, line: str) -> None:
        """Print a warning on standard error, also in a quiet run."""
        if self._warns:
            sys.stderr.write(f"hpcsamp: warning: {line}\n")

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.stop()


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook that can show a bar."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    kernel = type(running).__name__ == "ZMQInteractiveShell"
    return kernel and importlib.util.find_spec("ipywidgets") is not None
