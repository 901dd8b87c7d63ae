"""Rank statistics of simulation-based calibration, and the test of their uniformity.

If parameters are drawn from the prior, and data from the model with them, the rank of the true
value among L draws of the exact posterior is uniform on 0 .. L (Talts et al. 2018, "Validating
Bayesian Inference Algorithms with Simulation-Based Calibration", theorem 1). Draws that are too
narrow push ranks to both ends, draws that are too wide to the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

BARS = "▁▂▃▄▅▆▇█"
MOST, FEWEST = 16, 5
"""Largest number of bins, and smallest expected number of ranks in a bin."""


def ranks(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return how many of ``(L, ...)`` draws are below the true values ``(...)``, 0 to L."""
    found: np.ndarray = (draws < truth).sum(0)
    return found


@dataclass(frozen=True)
class Histogram:
    """Histogram of the ranks of one quantity.

    Attributes
    ----------
    counts, expected
        Number of ranks in each bin, and the number expected for uniform ranks.
    p
        P value of the chi-square test of uniformity.
    spread
        Variance of the ranks divided by that of uniform ranks: above 1 where posteriors are too
        narrow, below 1 where they are too wide.
    centre
        Mean rank divided by L: below 0.5 where posteriors are too high, above 0.5 where too low.
    """

    counts: list[int]
    expected: list[float]
    p: float
    spread: float
    centre: float

    @classmethod
    def of(cls, found: np.ndarray, draws: int) -> Histogram:
        """Return the histogram of ``(n,)`` ranks among L = ``draws`` draws.

        The ``L + 1`` possible ranks are divided among the bins; their numbers differ by at most 1.
        """
        bins = max(2, min(MOST, draws + 1, len(found) // FEWEST))
        parts = np.array_split(np.arange(draws + 1), bins)
        counts = np.histogram(found, [part[0] for part in parts] + [draws + 1])[0]
        expected = np.array([len(part) for part in parts]) * len(found) / (draws + 1)
        uniform = ((draws + 1) ** 2 - 1) / 12
        return cls(
            [int(n) for n in counts],
            [float(n) for n in expected],
            float(stats.chisquare(counts, expected).pvalue),
            float(np.square(found - draws / 2).mean() / uniform),
            float(found.mean() / draws),
        )

    def bars(self) -> str:
        """Draw the histogram with one character per bin; half the height is the expected count."""
        heights = [n / e for n, e in zip(self.counts, self.expected, strict=True)]
        return "".join(BARS[min(len(BARS) - 1, int(h * len(BARS) / 2))] for h in heights)
