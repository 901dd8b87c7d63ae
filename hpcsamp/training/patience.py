"""Early stopping: a run ends when the validation metric no longer improves."""

from __future__ import annotations

import math
from typing import Any

from hpcsamp.training.callbacks import Callback, Moment


class Patience(Callback):
    """End a run after several evaluations without improvement of the metric ``training.best``.

    A score that is NaN counts as no improvement. The count is part of checkpoints, so a resumed run
    ends where it would have ended without the interruption.

    Parameters
    ----------
    evaluations
        Number of evaluations without improvement after which the run ends.
    least
        Smallest improvement over the best value that counts, in units of the metric.
    """

    def __init__(self, evaluations: int, least: float = 0.0) -> None:
        self.evaluations, self.least = evaluations, least
        self.best = math.inf
        self.best_step = 0
        self.waited = 0

    def begin(self, at: Moment) -> None:
        """End a resumed run that had already ended, unless ``evaluations`` has been increased."""
        self._look(at)

    def after_evaluation(self, at: Moment) -> None:
        """Count evaluations without improvement; end the run when there are too many."""
        if at.score < self.best - self.least:
            self.best, self.best_step, self.waited = at.score, at.step, 0
        else:
            self.waited += 1
        self._look(at)

    def _look(self, at: Moment) -> None:
        if self.waited >= self.evaluations:
            more = f" by more than {self.least:g}" if self.least else ""
            at.stop(
                f"patience: {at.metric} has not improved{more} in {self.waited} "
                f"evaluations since step {self.best_step}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far, its step, and the number of evaluations since."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count."""
        self.best, self.best_step = state["best"], state["best_step"]
        self.waited = state["waited"]
