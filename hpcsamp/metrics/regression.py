"""Metrics of predictive distributions of numeric targets."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hpcsamp.metrics.regression_sums import LEVELS, POWERS, ROWS, RegressionSums
from hpcsamp.metrics.sums import check_defined


class RegressionMetrics(RegressionSums):
    """Errors, spread, calibration and scores of predictive distributions of numeric targets.

    An item may have many values (horizons, fields). All metrics except the density are means over
    values. Sums are kept for each **row** (a position on the first axis of an item: a horizon, a
    variable), so that the same metrics are available by row. With ``F`` the distribution function
    of the predictive mixture, a value lies in the central interval of level ``q`` if and only if
    ``|2 F(t) - 1| <= q``; coverage is kept at the levels ``k / bins``. Where ``F`` jumps at the
    target (samples alone, counts), ``F(t)`` is replaced by a uniform draw between its two values,
    and metrics are expectations over that draw (Czado, Gneiting & Held 2009): calibrated forecasts
    then have the nominal coverage for any S. The central interval from the k-th smallest to the
    k-th largest of S samples has the level ``(S + 1 - 2 k) / (S + 1)``. Coverage between two such
    levels is interpolated; above the largest, ``(S - 1) / (S + 1)``, it is not defined.

    The spread-skill ratio is ``sqrt((S + 1) / S) * spread / rmse`` for samples alone, with
    ``spread`` the root of the mean unbiased variance (divided by S - 1): 1 for calibrated samples,
    for any S (Fortin et al. 2014, eq. 15). The variance of observation noise is added once:
    ``sqrt(mean(noise + (S + 1) / S * variance)) / rmse``.

    Parameters
    ----------
    bins
        Number of levels of the calibration diagram, a multiple of 20 (so that the levels include
        50, 80, 90 and 95 %).
    rows
        Length of the first axis of an item; 1 for items without axes.
    weights
        Weight of every value of a row, such as the area of a grid cell; broadcasts to the shape of
        an item. Only ratios matter. The density and the item count are not weighted.
    scale
        ``(rows,)`` units of the target per unit of the arguments of :meth:`update`: the standard
        deviation that a standardised target was divided by.
    mixed
        Whether rows are different quantities. Metrics over all rows are then in units of the
        ``scale`` (standard deviations), and metrics of a row are in units of that row.
    typical
        ``(rows,)`` standard deviations of the target in the units of :meth:`update`, by which
        spreads are divided before they are binned. 1 by default.
    samples
        S, the number of samples whose mean squares around their mean are the ``epistemic``
        variances of :meth:`update`. Infinite by default.
    alone
        Whether the S samples alone are the predictive distribution, without noise.

    Raises
    ------
    ValueError
        If ``bins`` is not a multiple of 20.
    """

    def _by_row(self, scale: Tensor, over_rows: Tensor | None = None) -> dict[str, Tensor]:
        """Compute means over items, multiplied by ``scale`` (squared for variances).

        ``over_rows``: divisor that replaces the weight of each row.
        """
        _, tables = self.read()
        rows = tables["rows"]
        mean = dict(zip(ROWS, rows / (rows[0] if over_rows is None else over_rows), strict=True))
        for name, power in POWERS.items():
            mean[name] = mean[name] * scale**power
        return mean

    def compute(self) -> dict[str, float]:
        """Compute the metrics of all items so far; see :mod:`hpcsamp.metrics.definitions`.

        ``nll`` and ``crps`` are included if the updates were passed ``log_density`` and ``crps``.

        Raises
        ------
        HpcsampError
            If there were no items, or some predictions are not finite numbers.
        """
        sums, _ = self.read()
        check_defined(sums)
        scale = torch.ones_like(self._scale) if self.mixed else self._scale
        over = self._by_row(scale, self._known())  # so that means over rows are over known values
        mean = {name: float(values.mean()) for name, values in over.items()}
        result = {
            "rmse": math.sqrt(mean["square"]),
            "mae": mean["absolute"],
            "bias": mean["error"],
        }
        if sums["crps_items"] > 0:
            result["crps"] = mean["crps"]
        if sums["density_items"] > 0:
            result["nll"] = -sums["log_density"] / sums["density_items"]
            if not torch.all(self._scale == 1) or sums["jacobian"] != 0:
                jacobian = sums["jacobian"] / sums["density_items"]
                result["nll_physical"] = result["nll"] + jacobian
        if self._spread_known(sums):
            result["spread"] = math.sqrt(mean["variance"])
            if sums["split_items"] > 0:
                result["spread_epistemic"] = math.sqrt(mean["epistemic"])
            result["spread_skill"] = _ratio(math.sqrt(mean["expected"]), result["rmse"])
        result["sharpness"] = mean["std"]
        diagram = self.reliability()
        for level in self._known_levels():
            result[f"coverage_{level}"] = diagram["coverage"][level * self.bins // 100 - 1]
        both = zip(diagram["level"], diagram["coverage"], strict=True)
        inner = [abs(q - c) for q, c in both if q < 1 and self._attained(q)]
        if inner:
            result["mace"] = sum(inner) / len(inner)
        return result | {"items": sums["count"]}

    def unattained(self) -> dict[str, str]:
        """Return the metrics that S samples do not define, by name, each with the reason."""
        why = (
            f"S = {self._samples} samples without noise have central intervals up to "
            f"{100 * self.attainable:.1f} %"
        )
        found = {f"coverage_{q}": why for q in LEVELS if q not in self._known_levels()}
        if self._samples == 1:
            one = "one sample has no variance"
            found |= dict.fromkeys(("spread", "spread_epistemic", "spread_skill"), one)
        return found

    def _attained(self, level: float) -> bool:
        return level <= self.attainable + 1e-12

    def _known_levels(self) -> list[int]:
        return [q for q in LEVELS if self._attained(q / 100)]

    def _spread_known(self, sums: Mapping[str, float]) -> bool:
        return not (self._samples == 1 and sums["split_items"] > 0)

    def by_row(self) -> dict[str, list[float]]:
        """Compute RMSE, MAE, bias, CRPS, spread, spread-skill ratio and coverages of every row.

        Metrics are in the units of the row. ``crps`` is included if it was passed to the updates.

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        sums, _ = self.read()
        mean = self._by_row(self._scale)
        rmse = mean["square"].sqrt()
        result = {
            "rmse": rmse,
            "mae": mean["absolute"],
            "bias": mean["error"],
            "crps": mean["crps"],
            "spread": mean["variance"].sqrt(),
            "spread_skill": mean["expected"].sqrt() / rmse,
            "coverage_50": mean["coverage_50"],
            "coverage_90": mean["coverage_90"],
        }
        for name in self.unattained():
            result.pop(name, None)
        if not sums["crps_items"] > 0:
            del result["crps"]
        return {name: values.tolist() for name, values in result.items()}

    def reliability(self) -> dict[str, list[float]]:
        """Return the tables for calibration diagrams.

        Returns
        -------
        dict
            ``level`` (``1/bins .. 1``) and ``coverage``, the fraction of values inside (NaN for
            levels above those of the samples); ``pit``, the fraction of values in each bin of
            ``F(target)``; ``spread``, ``error`` and ``share``: for each bin of the predicted
            standard deviation the expected RMSE (the numerator of the spread-skill ratio) and the
            RMSE, both in standard deviations of the target, and the fraction of values in the bin.

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        _, tables = self.read()
        n = float(self._known())
        weight, variance, square = tables["spread"]
        filled = (weight > 0) & variance.isfinite()
        level = [(k + 1) / self.bins for k in range(self.bins)]
        inside = (tables["levels"] / n).tolist()
        return {
            "level": level,
            "coverage": [
                c if self._attained(q) or q == 1 else math.nan
                for q, c in zip(level, inside, strict=True)
            ],
            "pit": (tables["pit"] / n).tolist(),
            "spread": (variance[filled] / weight[filled]).sqrt().tolist(),
            "error": (square[filled] / weight[filled]).sqrt().tolist(),
            "share": (weight[filled] / n).tolist(),
        }


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf if a > 0 else 1.0
