"""Metrics of predictive distributions of values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpcsamp.metrics.pit import coverage, histogram, within
from hpcsamp.metrics.sums import Sums, check_defined, item_weights, per_bin

#: Central intervals whose coverage is told, in per cent.
LEVELS = (50, 80, 90, 95)
#: Bins of the histogram of the probability integral transform.
PIT_BINS = 20
#: Bins of the predicted standard deviation: quarter octaves from 2**-10 to 2**2 standard
#: deviations of the target.
SPREAD_BINS, SPREAD_LOW, SPREAD_PER_OCTAVE = 48, -10, 4

_SCALARS = (
    "items", "count", "undefined", "density_items", "log_density", "jacobian", "crps_items",
    "split_items",
)  # fmt: skip
_ROWS = ("weight", "square", "absolute", "error", "variance", "expected", "epistemic", "std",
         "crps",
         *(f"coverage_{level}" for level in LEVELS))  # fmt: skip


class RegressionMetrics(Sums):
    """Errors, spread, calibration and scores of predictive distributions of values.

    An item may hold many values (horizons, fields): all but the density are means over values,
    sums being kept per **row** (position on the first axis of an item: a horizon, a variable), so
    that the same numbers are known by row. With ``F`` the distribution function of the predictive
    mixture, a value lies in the central interval of level ``q`` if and only if
    ``|2 F(t) - 1| <= q``; coverage is kept at the levels ``k / bins``. Where ``F`` jumps at the
    target (samples alone, counts), a uniform draw between its two values stands for ``F(t)``, and
    its expectation is what counts (Czado, Gneiting & Held 2009): calibrated forecasts then have the
    nominal coverage for any S. The central interval from the k-th least to the k-th largest of S
    samples has the level ``(S + 1 - 2 k) / (S + 1)``; between two such levels coverage is
    interpolated, and above the largest, ``(S - 1) / (S + 1)``, S samples have none.

    The spread-skill ratio is ``sqrt((S + 1) / S) * spread / rmse`` for samples alone, with
    ``spread`` the root of the mean unbiased variance (divided by S - 1): 1 for calibrated samples,
    whatever S is (Fortin et al. 2014, eq. 15). Observation noise adds its variance to both, once:
    ``sqrt(mean(noise + (S + 1) / S * variance)) / rmse``.

    Parameters
    ----------
    bins
        Levels of the calibration diagram, a multiple of 20 (so that 50, 80, 90, 95 % are among
        them).
    rows
        Length of the first axis of an item; 1 for items without axes.
    weights
        Weight of every value of a row, broadcastable to an item's shape, such as that of the area
        of a grid cell; only ratios count. Density and item count know no such weights.
    scale
        ``(rows,)`` units of the target per unit of what :meth:`update` gets: the standard deviation
        that a standardised target was divided by.
    mixed
        Whether rows are different quantities. Then numbers over all rows stay in units of the
        ``scale`` (standard deviations), those by row are in units of their row.
    typical
        ``(rows,)`` standard deviations of the target in the units of :meth:`update`: what
        spreads are binned by. 1 if not given.
    samples
        S, of which the ``epistemic`` variances of :meth:`update` are the mean squares around the
        mean. Not given: infinitely many.
    alone
        Whether the S samples alone are the predictive distribution, without noise.

    Raises
    ------
    ValueError
        If ``bins`` is not a multiple of 20.
    """

    def __init__(
        self,
        bins: int = 20,
        *,
        rows: int = 1,
        weights: Tensor | None = None,
        scale: Sequence[float] | None = None,
        mixed: bool = False,
        typical: Sequence[float] | None = None,
        samples: int | None = None,
        alone: bool = False,
    ) -> None:
        if bins % 20:
            raise ValueError(f"bins must be a multiple of 20, got {bins}")
        super().__init__(
            _SCALARS,
            {
                "rows": (len(_ROWS), rows),
                "levels": (bins,),  # weight of the values inside the interval of each level
                "pit": (PIT_BINS,),
                "spread": (3, SPREAD_BINS),  # weight, variance, squared error
            },
        )
        self.bins, self.rows, self.mixed = bins, rows, mixed
        self._weights = None if weights is None else weights.double()
        self._scale = torch.ones(rows, dtype=torch.float64)
        if scale is not None:
            self._scale = torch.as_tensor(scale, dtype=torch.float64)
        self._typical = torch.ones(rows, dtype=torch.float64)
        if typical is not None:
            self._typical = torch.as_tensor(typical, dtype=torch.float64)
        self._samples = math.inf if samples is None else samples
        self.attainable = (samples - 1) / (samples + 1) if samples and alone else 1.0

    def update(
        self,
        mean: Tensor,
        variance_total: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        log_density: Tensor | None = None,
        *,
        pit: tuple[Tensor, Tensor] | None = None,
        crps: Tensor | None = None,
        epistemic: Tensor | None = None,
        known: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        mean, variance_total
            ``(B, ...)``: moments of the predictive distribution, units of the target and their
            square; the variance includes observation noise.
        target
            ``(B, ...)``.
        weight
            ``(B,)`` weights of items, 0 for padding; 1 for all if not given.
        log_density
            ``(B,)``: ``log mean_s p(target | sample s)`` of the predictive mixture, in nats, summed
            over the values of an item. Without it there is no ``nll``.
        pit
            ``(B, ...)`` each: ``F`` of the predictive distribution just below the target and at it;
            that of the normal distribution with its moments if not given.
        crps
            ``(B, ...)``: of each value, units of the target. Without it there is no ``crps``.
        epistemic
            ``(B, ...)``: the part of the variance that comes from the weights.
        known
            ``(B, ...)`` bool: False for values of the target that are not known. They count
            nowhere, nor do items without a known value; ``log_density`` is that of known values.

        Raises
        ------
        ValueError
            If the shapes of mean, variance and target differ.
        """
        if not mean.shape == variance_total.shape == target.shape:
            raise ValueError(
                f"mean {tuple(mean.shape)}, variance_total {tuple(variance_total.shape)} and "
                f"target {tuple(target.shape)} must have the same shape"
            )
        w = item_weights(weight, target)
        keep = w > 0
        if known is not None:
            known = known.reshape(len(w), -1)
            keep = keep & known.any(1)
            known = known[keep]
        w = w[keep]
        if w.numel() == 0:
            return

        def rowwise(x: Tensor) -> Tensor:
            return x[keep].double().reshape(len(w), self.rows, -1)

        mean, variance, truth = rowwise(mean), rowwise(variance_total), rowwise(target)
        each = self._each(w, target)  # of every value: the sum of a row is the item's weight
        if known is not None:
            known = known.reshape(truth.shape)
            each = each * known
            truth = torch.where(known, truth, mean)
        error = mean - truth
        std = variance.sqrt()
        if pit is None:
            z = torch.where(error == 0, 0.0, -error / std)  # a sure and right one has 0 / 0
            low = high = torch.special.ndtr(z)
        else:
            low = rowwise(pit[0])
            high = low if pit[1] is pit[0] else rowwise(pit[1])
        if known is not None:
            low, high = (torch.where(known, u, 0.5) for u in (low, high))
        undefined = (~mean.isfinite() | variance.isnan()).flatten(1).any(1)
        parts = {
            "square": error.square(),
            "absolute": error.abs(),
            "error": error,
            "variance": variance,
            "expected": variance,
            "std": std,
        } | {f"coverage_{q}": within(low, high, q / 100) for q in LEVELS}
        if epistemic is not None:
            # unbiased; a single sample has no variance that could be known
            parts["epistemic"] = rowwise(epistemic) * _over(self._samples, self._samples - 1)
            parts["variance"] = variance - rowwise(epistemic) + parts["epistemic"]
            parts["expected"] = parts["variance"] + parts["epistemic"] / self._samples
        if crps is not None:
            parts["crps"] = rowwise(crps)
            if known is not None:
                parts["crps"] = torch.where(known, parts["crps"], 0.0)
        parts["weight"] = torch.ones_like(error)
        rows = each.new_zeros(len(_ROWS), self.rows)
        for k, name in enumerate(_ROWS):
            if name in parts:
                rows[k] = (each * parts[name]).sum((0, 2))
        sums = {
            "items": w.sum(),
            "count": keep.double().sum(),
            "undefined": undefined.double().sum(),
        }
        if crps is not None:
            sums["crps_items"] = w.sum()
        if epistemic is not None:
            sums["split_items"] = w.sum()
        if log_density is not None:
            sums["density_items"] = w.sum()
            sums["log_density"] = (w * log_density[keep].double()).sum()
            there = torch.ones_like(error) if known is None else known.double()
            logs = self._scale.log().to(w.device)[:, None]
            sums["jacobian"] = (w * (there * logs).sum((1, 2))).sum()
        flat = (each / self.rows).flatten()
        typical = self._typical.to(w.device)[:, None]
        relative = (std / typical).clamp_min(1e-300)
        octave = ((relative.log2() - SPREAD_LOW) * SPREAD_PER_OCTAVE).floor().long()
        octave = octave.clamp_(0, SPREAD_BINS - 1)
        self.add(
            sums,
            {
                "rows": rows,
                "levels": coverage(low, high, each / self.rows, self.bins),
                "pit": histogram(low, high, each / self.rows, PIT_BINS),
                "spread": per_bin(
                    octave.flatten(),
                    SPREAD_BINS,
                    flat,
                    flat * (parts["expected"] / typical**2).flatten(),
                    flat * (error / typical).square().flatten(),
                ),
            },
        )

    def _each(self, w: Tensor, target: Tensor) -> Tensor:
        """``(B, rows, n)`` weights of values; those of a row of an item sum to the item's."""
        shape = (1, *target.shape[1:])
        if self._weights is None:
            over = target.new_ones(shape, dtype=torch.float64)
        else:
            over = self._weights.to(target.device).expand(shape)
        over = over.reshape(1, self.rows, -1)
        return w[:, None, None] * (over / over.sum(2, keepdim=True))

    def _known(self) -> Tensor:
        """Sum of the weights of all known values, as if an item had one in all."""
        return self.read()[1]["rows"][0].mean()

    def _by_row(self, scale: Tensor, over_rows: Tensor | None = None) -> dict[str, Tensor]:
        """Means over items, in the units that ``scale`` leads to.

        ``over_rows``: what to divide by instead of the weight of each row.
        """
        _, tables = self.read()
        rows = tables["rows"]
        mean = dict(zip(_ROWS, rows / (rows[0] if over_rows is None else over_rows), strict=True))
        for name in ("square", "variance", "expected", "epistemic"):
            mean[name] = mean[name] * scale**2
        for name in ("absolute", "error", "std", "crps"):
            mean[name] = mean[name] * scale
        return mean

    def compute(self) -> dict[str, float]:
        """The metrics of all items so far; the definitions say what each is.

        ``nll`` and ``crps`` are there if the updates gave what they need.

        Raises
        ------
        HpcsampError
            If there were no items, or predictions of some are not numbers.
        """
        sums, _ = self.read()
        check_defined(sums)
        scale = torch.ones_like(self._scale) if self.mixed else self._scale
        over = self._by_row(scale, self._known())  # the mean over rows is that over known values
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
            if not torch.all(self._scale == 1):
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
        """Metrics that S samples do not have, and why, by name."""
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
        """RMSE, MAE, bias, CRPS, spread, spread-skill ratio and coverages of every row.

        In the units of the row. ``crps`` is there if the updates gave it.

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
        """Tables for diagrams of calibration.

        Returns
        -------
        dict
            ``level`` (``1/bins .. 1``) and ``coverage``, the fraction of values inside (NaN for
            levels that the samples do not attain); ``pit``, the fraction of values per bin of
            ``F(target)``; ``spread``, ``error`` and ``share``: per bin of the predicted standard
            deviation the RMSE that is expected of it (the numerator of the spread-skill ratio) and
            the RMSE, both in standard deviations of the target, and the fraction of values there.

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


def _over(a: float, b: float) -> float:
    return 1.0 if math.isinf(a) else a / b if b > 0 else math.nan


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf if a > 0 else 1.0
