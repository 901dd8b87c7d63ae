"""Scores of ensemble forecasts of fields by lead time and variable, from sums over points.

Every score is computed from sums (:class:`ForecastSums`). Ranks hold different items and latitudes
and add up their sums, so the result does not depend on the grid of ranks. Means over points are
weighted by the area of grid cells, over the points that are observed: NaN marks a missing value of
an observed field. Fields have the units of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcsamp.errors import UsageError

ALPHA = 0.95
"""Weight of the fair score in the almost fair CRPS (Lang et al. 2024)."""
LEVELS = (0.05, 0.5, 0.95)
"""Levels of the quantile scores."""
POINT = (
    "weight", "error", "square", "variance", "absolute", "pairs", "persistence", "climatology",
    "mae_persistence", "mae_climatology", "brier", "weight_climatology",
    *(f"pinball_{level:g}" for level in LEVELS),
)  # fmt: skip
"""Names of the sums over points that are kept for each lead time, variable and region."""
AGAINST_CLIMATOLOGY = ("climatology", "mae_climatology", "brier")
"""Sums over those points only at which there is a climatology, besides an observed value."""
ITEM = ("acc", "energy_score", "square", "variance", "crps_fair")
"""Scores of whole items."""
REGIONS = {
    "global": (-90.0, 90.0),
    "tropics": (-20.0, 20.0),
    "northern extratropics": (20.0, 90.0),
    "southern extratropics": (-90.0, -20.0),
}
"""Range of latitudes of each region in degrees, both ends included (WeatherBench 2)."""


def check_members(members: int) -> None:
    """Check that an ensemble is large enough for the spread and for fair scores.

    Raises
    ------
    UsageError
        If there are fewer than 2 members.
    """
    if members < 2:
        raise UsageError(
            f"--scores with {members} member: the spread and the fair CRPS need at least 2 members"
        )


@dataclass
class ForecastSums:
    """Sums for the scores of ``L`` lead times, ``V`` variables and ``M`` members.

    Parameters
    ----------
    leads, variables, members, longitudes
        Sizes.

    Attributes
    ----------
    points
        ``(regions, L, V, len(POINT))``.
    ranks
        ``(L, V, M + 1)`` total weight of the points by the number of members below the observed
        value. If members equal the observed value, the weight of the point is divided equally among
        the possible ranks.
    events
        ``(L, V, M + 1, 2)`` by the number of members that forecast the event: weight of all points,
        and of those where the event is observed.
    spectra
        ``(L, V, 2, longitudes // 2 + 1)`` zonal power spectra: mean of the members, and observed.
    circles
        ``(L, V)`` weight of the circles of latitude whose spectra are added: those without missing
        values.
    items
        ``(L, V, 1 + 2 len(ITEM))`` sums over items: their number, their scores, and the squares of
        these.
    """

    leads: int
    variables: int
    members: int
    longitudes: int
    points: np.ndarray = field(init=False)
    ranks: np.ndarray = field(init=False)
    events: np.ndarray = field(init=False)
    spectra: np.ndarray = field(init=False)
    circles: np.ndarray = field(init=False)
    items: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        first, m = (self.leads, self.variables), self.members
        self.points = np.zeros((len(REGIONS), *first, len(POINT)))
        self.ranks, self.events = np.zeros((*first, m + 1)), np.zeros((*first, m + 1, 2))
        self.spectra = np.zeros((*first, 2, self.longitudes // 2 + 1))
        self.circles, self.items = np.zeros(first), np.zeros((*first, 1 + 2 * len(ITEM)))

    @property
    def arrays(self) -> list[np.ndarray]:
        """All sums, which are to be added over the ranks."""
        return [self.points, self.ranks, self.events, self.spectra, self.circles, self.items]

    def add(
        self,
        lead: int,
        variable: int,
        members: np.ndarray,
        observed: np.ndarray,
        initial: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        areas: np.ndarray,
    ) -> None:
        """Add the points of some items at some latitudes.

        Parameters
        ----------
        lead, variable
            Indices of the lead time and of the variable.
        members
            ``(M, n, h, W)`` states of the members.
        observed, initial
            ``(n, h, W)`` observed state, NaN where it is missing, and initial state, which is the
            persistence forecast.
        mean, std
            Climatology, ``(n, h, W)`` mean at the times of the items, or ``(h, W)``, and ``(h, W)``
            deviation; NaN where there is none. The event is a value above ``mean + std``.
        areas
            ``(regions, h)`` weights of the latitudes in each region.
        """
        count, centre = len(members), members.mean(0)
        seen = np.isfinite(observed)
        normal = seen & np.isfinite(mean)
        ordered = np.sort(members, axis=0)
        # sum over all pairs of |x_i - x_j| of sorted values: 2 sum_k (2k - M - 1) x_(k)
        factors = 2 * np.arange(1, count + 1) - count - 1
        pairs = 2 * np.tensordot(factors.astype(float), ordered, 1)
        above, event = (members > mean + std).sum(0), observed > mean + std
        each = [
            seen,
            centre - observed,
            (centre - observed) ** 2,
            members.var(0, ddof=1),
            np.abs(members - observed).mean(0),
            pairs,
            (initial - observed) ** 2,
            (mean - observed) ** 2,
            np.abs(initial - observed),
            np.abs(mean - observed),
            (above / count - event) ** 2,
            normal,
        ]
        for level in LEVELS:
            miss = observed - np.quantile(members, level, axis=0)
            each.append(np.maximum(level * miss, (level - 1) * miss))
        for k, (name, values) in enumerate(zip(POINT, each, strict=True)):
            known = np.where(normal if name in AGAINST_CLIMATOLOGY else seen, values, 0.0)
            self.points[:, lead, variable, k] += areas @ known.sum(axis=(0, 2))
        weight = areas[0][:, None] * seen
        below, ties = (members < observed).sum(0), (members == observed).sum(0)
        for rank in range(count + 1):
            here = (below <= rank) & (rank <= below + ties)
            self.ranks[lead, variable, rank] += (weight[here] / (ties[here] + 1)).sum()
        for k, counted in enumerate((weight * normal, weight * (normal & event))):
            self.events[lead, variable, :, k] += np.bincount(
                above.ravel(), counted.ravel(), minlength=count + 1
            )
        circles = seen.all(-1)
        self.circles[lead, variable] += areas[0] @ circles.sum(0)
        for k, fields in enumerate((members, observed[None])):
            power = np.abs(np.fft.rfft(fields, axis=-1)) ** 2 / self.longitudes**2
            whole = np.where(circles[..., None], power.mean(0), 0.0)
            self.spectra[lead, variable, k] += areas[0] @ whole.sum(0)

    def add_items(self, lead: int, variable: int, weight: np.ndarray, scores: np.ndarray) -> None:
        """Add scores ``(n, len(ITEM))`` of items; those without weight ``(n,)`` are left out."""
        known = scores[weight > 0]
        self.items[lead, variable] += [len(known), *known.sum(0), *(known**2).sum(0)]

    def result(self) -> dict[str, Any]:
        """Compute all scores from the sums; NaN where nothing was observed.

        Returns
        -------
        dict
            ``regions`` has ``(L, V)`` arrays by region and score. Scores of the whole globe are
            ``acc``, ``energy_score``, ``rank_histogram``, ``reliability``, ``spectra``, ``items``
            (their number), and ``standard_errors`` of means over items, as if these were
            independent.
        """
        m = self.members
        with np.errstate(invalid="ignore", divide="ignore"):
            regions = {name: _scores(self.points[r], m) for r, name in enumerate(REGIONS)}
            count, weight = self.items[..., 0], self.points[0, ..., 0]
            normal = self.points[0, ..., POINT.index("weight_climatology")]
            first, second = np.split(self.items[..., 1:] / count[..., None], 2, axis=-1)
            variance = np.maximum(second - first**2, 0) / np.maximum(count - 1, 0)[..., None]
            mean = dict(zip(ITEM, np.moveaxis(first, -1, 0), strict=True))
            error = dict(zip(ITEM, np.moveaxis(np.sqrt(variance), -1, 0), strict=True))
            observed = self.events[..., 1] / self.events[..., 0]
            return {
                "regions": regions,
                "acc": mean["acc"],
                "energy_score": mean["energy_score"],
                "standard_errors": {
                    # of a root: by its derivative
                    "rmse": error["square"] / (2 * np.sqrt(mean["square"])),
                    "spread": error["variance"] / (2 * np.sqrt(mean["variance"])),
                    "crps_fair": error["crps_fair"],
                    "acc": error["acc"],
                },
                "rank_histogram": self.ranks / weight[..., None],
                "reliability": {
                    "forecast": np.arange(m + 1) / m,
                    "observed": observed,
                    "weight": self.events[..., 0] / normal[..., None],
                },
                "spectra": {
                    name: self.spectra[:, :, k] / self.circles[..., None]
                    for k, name in enumerate(("members", "observed"))
                },
                "items": count,
            }


def _scores(sums: np.ndarray, m: int) -> dict[str, np.ndarray]:
    """Compute scores from sums ``(L, V, len(POINT))``."""
    normal = sums[..., POINT.index("weight_climatology")]
    of = {
        name: sums[..., k] / (normal if name in AGAINST_CLIMATOLOGY else sums[..., 0])
        for k, name in enumerate(POINT)
    }
    rmse, spread = np.sqrt(of["square"]), np.sqrt(of["variance"])
    fair, plain = (of["absolute"] - of["pairs"] / (2 * n) for n in (m * (m - 1), m * m))
    return {
        "rmse": rmse,
        "bias": of["error"],
        "spread": spread,
        "spread_skill": np.sqrt((m + 1) / m) * spread / rmse,
        "crps": plain,
        "crps_fair": fair,
        "crps_almost_fair": ALPHA * fair + (1 - ALPHA) * plain,
        "brier": of["brier"],
        "rmse_persistence": np.sqrt(of["persistence"]),
        "rmse_climatology": np.sqrt(of["climatology"]),
        **{name: of[name] for name in POINT if name.startswith(("mae", "pinball"))},
    }


def item_sums(
    members: np.ndarray, observed: np.ndarray, mean: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Return the sums over the points of each item that :func:`item_scores` needs.

    Parameters
    ----------
    members, observed, mean
        As for :meth:`ForecastSums.add`.
    area
        ``(h,)`` weights of the latitudes.

    Returns
    -------
    numpy.ndarray
        ``(n, 7 + M + M * M)``: weight, the three products of anomalies of the ensemble mean and
        the observation, squared error of the mean, variance and fair CRPS, and squared distances of
        the members from the observation and each other.
    """
    count, centre = len(members), members.mean(0)
    seen = np.isfinite(observed)
    w = area[:, None] * seen
    y, normal = np.where(seen, observed, 0.0), np.isfinite(mean)
    a, o = np.where(normal, centre - mean, 0.0), np.where(normal, y - mean, 0.0)
    from_y = np.abs(members - y)
    between = sum(np.abs(x - members).sum(0) for x in members) / (2 * count * (count - 1))
    values = [np.ones_like(y), a * o, a * a, o * o, (centre - y) ** 2, members.var(0, ddof=1)]
    values += [from_y.mean(0) - between, *from_y**2]
    values += [(x - z) ** 2 for x in members for z in members]
    return np.stack([(w * v).sum(axis=(1, 2)) for v in values], 1)


def item_scores(sums: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight ``(n,)`` and scores ``(n, len(ITEM))`` of items; NaN without weight.

    The anomaly correlation of the ensemble mean is not centred (WeatherBench 2). The energy score
    (Gneiting and Raftery 2007, eq. 22) of an item is ``mean_i |x_i - y| - sum_ij |x_i - x_j| /
    (2 M (M - 1))`` with the norm ``sqrt(mean of squares)`` over the weighted points (fair).
    """
    weight, cross, own, seen, square, variance, crps = sums[:, :7].T
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.sqrt(sums[:, 7:] / weight[:, None])
        to_y, pairs = distance[:, :members], distance[:, members:].sum(1)
        found = (
            cross / np.sqrt(own * seen),
            to_y.mean(1) - pairs / (2 * members * (members - 1)),
            square / weight,
            variance / weight,
            crps / weight,
        )
    return weight, np.stack(found, 1)


def region_weights(latitude: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return ``(regions, H)`` area weights, 0 outside a region."""
    within = [(latitude >= low) & (latitude <= high) for low, high in REGIONS.values()]
    return np.where(within, area, 0.0)
