"""Waiting for the slowest: the expected maximum of many step times.

A rank's compute time is taken as Gumbel distributed, the limit of maxima of many small delays
(interrupts, clocks, other traffic). The maximum of ``p`` independent ones with mean ``mu`` and
standard deviation ``sigma`` has the same shape and the mean

    E[max_p] = mu + sigma * sqrt(6)/pi * ln p

exactly, so efficiency falls with the logarithm of the ranks, as measured on large machines (Petrini
et al. 2003; Hoefler et al. 2010).
"""

from __future__ import annotations

import math

import numpy as np

SCALE = math.sqrt(6) / math.pi


def expected_maximum(mean: float, spread: float, ranks: int) -> float:
    """Seconds until the last of ``ranks`` ranks is done.

    Parameters
    ----------
    mean
        Seconds of one rank, on average.
    spread
        Standard deviation over the mean.
    """
    return mean * (1 + spread * SCALE * math.log(ranks))


def draw(generator: np.random.Generator, spread: float, shape: tuple[int, ...]) -> np.ndarray:
    """Factors of mean 1 and standard deviation ``spread``, Gumbel distributed, not below 0."""
    width = spread * SCALE
    noise = generator.gumbel(-np.euler_gamma * width, width, shape)
    return np.maximum(0.0, 1.0 + noise)
