"""Plan when a chain explores, when it samples, and which snapshots of its weights are kept.

    step size = largest step size * (1 + cos(pi * steps done in the cycle / its length)) / 2

(Cyclical stochastic gradient MCMC; Zhang et al. 2020, equation 1 and algorithm 1.)
"""

from __future__ import annotations

import math

from hpcsamp.errors import UsageError


class Cycles:
    """The plan of a run: cycles of exploration, burn-in and sampling.

    A cycle begins with large steps without noise, which leave the previous mode; then noise is
    added, and after a burn-in snapshots are kept, the last one at the end of the cycle.

    Parameters
    ----------
    steps
        Number of steps of the whole run.
    cycles
        Number of cycles, whose lengths differ by at most one step. With 0 the step size is left to
        the optimiser, and the run has the phases of a single cycle.
    exploration
        Fraction of a cycle without noise, at least 0 and below 1.
    burn_in
        Fraction of a cycle after the exploration, with noise but without snapshots.
    snapshots
        Number of snapshots kept per cycle.
    thinning
        Number of steps from one snapshot to the next (default: spread evenly over the rest of the
        cycle).

    Raises
    ------
    UsageError
        If a fraction is outside its range, or if a cycle is too short for its snapshots.
    """

    def __init__(
        self,
        steps: int,
        cycles: int,
        exploration: float,
        burn_in: float,
        snapshots: int,
        thinning: int | None = None,
    ) -> None:
        check(cycles, exploration, burn_in, snapshots, thinning)
        self.cosine = cycles > 0
        count = max(cycles, 1)
        if steps < count:
            raise UsageError(f"method.cycles = {cycles}, but the run has {steps} steps")
        self._starts = [steps * c // count for c in range(count + 1)]
        self._exploration = exploration
        self._slots: dict[int, int] = {}
        for c in range(count):
            start, end = self._starts[c], self._starts[c + 1]
            room = end - start - math.floor((end - start) * (exploration + burn_in) + 1e-9)
            apart = room // snapshots if thinning is None else thinning
            needed = (snapshots - 1) * max(apart, 1) + 1
            if needed > room:
                thin = f" ({apart} steps apart)" if thinning is not None else ""
                raise UsageError(
                    f"method.snapshots = {snapshots}{thin} needs {needed} steps per cycle, but "
                    f"only {room} of the cycle's {end - start} steps remain after exploration and "
                    f"burn-in"
                )
            for k in range(snapshots):
                self._slots[end - (snapshots - 1 - k) * apart] = c * snapshots + k

    def factor(self, step: int) -> float:
        """Step size at a step divided by the largest one, above 0 and at most 1."""
        start, end = self._cycle(step)
        return 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start)))

    def explores(self, step: int) -> bool:
        """Whether a step explores, i.e. adds no noise."""
        start, end = self._cycle(step)
        return step - start < math.floor((end - start) * self._exploration + 1e-9)

    def slot(self, done: int) -> int | None:
        """Index of the snapshot to keep after ``done`` steps, or None."""
        return self._slots.get(done)

    def _cycle(self, step: int) -> tuple[int, int]:
        """First steps of the cycle that contains a step, and of the next cycle.

        Steps after the end are in the last cycle.
        """
        last = len(self._starts) - 2
        c = max(k for k in range(last + 1) if self._starts[k] <= step)
        return self._starts[c], max(self._starts[c + 1], step + 1)


def check(
    cycles: int, exploration: float, burn_in: float, snapshots: int, thinning: int | None
) -> None:
    """Check the arguments as far as possible without the length of a run.

    Raises
    ------
    UsageError
        If an argument is invalid; the message gives its name, its value and what is allowed.
    """
    for what, value, least in (("cycles", cycles, 0), ("snapshots", snapshots, 1)):
        if value < least:
            raise UsageError(f"method.{what} = {value} must be at least {least}")
    if thinning is not None and thinning < 1:
        raise UsageError(f"method.thinning = {thinning} must be at least 1 step")
    for what, share in (("exploration", exploration), ("burn_in", burn_in)):
        if not 0 <= share < 1:
            raise UsageError(f"method.{what} = {share} must be at least 0 and below 1")
    if exploration + burn_in >= 1:
        raise UsageError(
            f"method.exploration = {exploration} and method.burn_in = {burn_in} leave no steps of "
            f"a cycle to sample in: their sum must be below 1"
        )
