"""The same step, rank by rank and step by step: jitter, uneven shares, and the ring's prefetch.

A rank takes its batch out of the ring when it is there, computes for a time of its own, and meets
the others in the exchanges. A reader begins batch ``k`` when it has read ``k - 1`` and all ranks of
its group have taken ``k - slots``. Without jitter a step takes what :mod:`.model` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcsamp.grid import share
from hpcsamp.planning import jitter
from hpcsamp.planning.machine import Machine
from hpcsamp.planning.model import COMPUTE, MODEL_EXCHANGE, Prediction


@dataclass(frozen=True)
class Simulated:
    """Of the steps after the first ones, which fill the ring.

    Attributes
    ----------
    seconds
        ``(steps,)`` of each step.
    waiting
        Mean part of a step that ranks wait for others.
    starved
        Mean part of a step that ranks wait for a batch.
    """

    seconds: np.ndarray
    waiting: float
    starved: float

    @property
    def mean(self) -> float:
        """Seconds of a step."""
        return float(self.seconds.mean())


def simulate(
    prediction: Prediction,
    machine: Machine,
    *,
    steps: int = 100,
    slots: int = 3,
    seed: int = 1,
    spread: float | None = None,
) -> Simulated:
    """Go through some steps.

    Parameters
    ----------
    prediction
        Whose phases, grid and work are taken.
    steps
        That count; ``2 slots`` more come first.
    slots
        Of the ring (``data.slots``).
    spread
        Standard deviation of a rank's compute over its mean (default: the machine's).
    """
    layout, work = prediction.layout, prediction.work
    p, d, m = layout.sample_size, layout.data_size, layout.model_size
    spread = machine.jitter if spread is None else spread
    shares = np.array([len(share(work.samples, p, i)) for i in range(p)]) / prediction.samples
    per_sample = prediction.phase("draw") + prediction.phase("forward+backward")
    if work.views == "sample":
        per_sample += prediction.phase("augment")
    exchange = prediction.phase(MODEL_EXCHANGE) * shares  # the ranks of a model group are as one
    whole = sum(prediction.phase(name) for name in COMPUTE)
    compute = np.tile(whole - per_sample + per_sample * shares, (d, 1))  # (D, P)
    statistics = prediction.phase("statistics")
    after = sum(prediction.phase(n) for n in ("agreement", "gradient exchange", "optimiser"))
    taking = prediction.taking
    generator = np.random.default_rng(seed)
    ready, end = np.zeros(d), 0.0
    taken = np.zeros((slots, d))
    seconds, waiting, starved = [], [], []
    for step in range(steps + 2 * slots):
        ready = np.maximum(ready, taken[step % slots]) + prediction.reading
        start = np.maximum(ready, end)
        taken[step % slots] = start + taking
        own = compute
        if spread:
            own = compute * jitter.draw(generator, spread, (d, p, m)).max(axis=-1)
        done = (start + taking)[:, None] + own + exchange
        groups = done.max(axis=1) + statistics
        last = float(groups.max()) + after
        if step >= 2 * slots:
            took = last - end
            seconds.append(took)
            waiting.append(float((groups.max() - statistics - done).mean()) / took)
            starved.append(float((start - end).mean()) / took)
        end = last
    return Simulated(np.array(seconds), float(np.mean(waiting)), float(np.mean(starved)))
