"""Early stopping: a run ends when the validation metric no longer improves."""

from __future__ import annotations

import math
from typing import Any

from hpcsamp.training.callbacks import Callback, Moment


class Patience(Callback):
    """End a run after so many evaluations without improvement of the metric ``training.best``.

    A score that is not a number is no improvement. The count is part of checkpoints, so that a run
    that goes on ends where it would have ended.

    Parameters
    ----------
    evaluations
        Without improvement, after which the run ends.
    least
        By how much the metric must be better than the best one to count as improved, in its units.
    """

    def __init__(self, evaluations: int, least: float = 0.0) -> None:
        self.evaluations, self.least = evaluations, least
        self.best = math.inf
        self.best_step = 0
        self.waited = 0

    def begin(self, at: Moment) -> None:
        """A run that was over stays so, unless it is given more patience."""
        self._look(at)

    def after_evaluation(self, at: Moment) -> None:
        """Count."""
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
        """Best metric so far, its step, and evaluations since."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.best, self.best_step = state["best"], state["best_step"]
        self.waited = state["waited"]
