"""Waiting for the slowest rank: the expected maximum of many step times.

A rank's compute time is assumed to be Gumbel distributed, the limit of maxima of many small delays
(interrupts, clocks, other traffic). The maximum of ``p`` independent times with mean ``mu`` and
standard deviation ``sigma`` is again Gumbel distributed, with the mean

    E[max_p] = mu + sigma * sqrt(6)/pi * ln p

exactly. So efficiency falls with the logarithm of the number of ranks, as measured on large
machines (Petrini et al. 2003; Hoefler et al. 2010).
"""

from __future__ import annotations

import math

import numpy as np

SCALE = math.sqrt(6) / math.pi


def expected_maximum(mean: float, spread: float, ranks: int) -> float:
    """Expected seconds until the last of ``ranks`` ranks has finished.

    Parameters
    ----------
    mean
        Mean seconds of one rank.
    spread
        Relative standard deviation.
    """
    return mean * (1 + spread * SCALE * math.log(ranks))


def draw(generator: np.random.Generator, spread: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draw Gumbel-distributed factors of mean 1 and standard deviation ``spread``, at least 0."""
    width = spread * SCALE
    noise = generator.gumbel(-np.euler_gamma * width, width, shape)
    return np.maximum(0.0, 1.0 + noise)
