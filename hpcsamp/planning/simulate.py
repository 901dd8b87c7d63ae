"""Simulate steps rank by rank, with jitter, uneven shares, and the prefetch ring.

A rank takes its batch from the ring when it is available, computes for a random time, and waits for
the others in the exchanges. A reader starts batch ``k`` when it has read ``k - 1`` and all ranks of
its group have taken ``k - slots``. Without jitter a step takes the time predicted by :mod:`.model`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcsamp.grid import share
from hpcsamp.planning import jitter
from hpcsamp.planning.machine import Machine
from hpcsamp.planning.model import COMPUTE, MODEL_EXCHANGE, StepPrediction


@dataclass(frozen=True)
class Simulated:
    """Results of simulated steps; the first steps, which fill the ring, are left out.

    Attributes
    ----------
    seconds
        Time of each step, ``(steps,)``.
    waiting
        Mean fraction of a step in which ranks wait for others.
    starved
        Mean fraction of a step in which ranks wait for a batch.
    """

    seconds: np.ndarray
    waiting: float
    starved: float

    @property
    def mean(self) -> float:
        """Mean seconds of a step."""
        return float(self.seconds.mean())


def simulate(
    prediction: StepPrediction,
    machine: Machine,
    *,
    steps: int = 100,
    slots: int = 3,
    seed: int = 1,
    spread: float | None = None,
) -> Simulated:
    """Simulate several steps.

    Parameters
    ----------
    prediction
        Prediction with the phases, grid and work to simulate.
    steps
        Number of steps in the result; ``2 slots`` further steps precede them.
    slots
        Number of slots in the ring (``data.slots``).
    spread
        Relative standard deviation of a rank's compute time (default: the machine's).
    """
    layout, work = prediction.layout, prediction.work
    p, d, m = layout.sample_size, layout.data_size, layout.model_size
    spread = machine.jitter if spread is None else spread
    shares = np.array([len(share(work.samples, p, i)) for i in range(p)]) / prediction.samples
    per_sample = prediction.phase("draw") + prediction.phase("forward+backward")
    if work.views == "sample":
        per_sample += prediction.phase("augment")
    exchange = prediction.phase(MODEL_EXCHANGE) * shares  # a model group acts as one rank
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
