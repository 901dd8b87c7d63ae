"""Metrics of predictive distributions of values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hpcsamp.prediction.metrics.sums import Sums, item_weights, per_bin

#: Central intervals whose coverage is told, in per cent.
LEVELS = (50, 80, 90, 95)
#: Bins of the histogram of the probability integral transform.
PIT_BINS = 20
#: Bins of the predicted standard deviation: quarter octaves from 2**-10 to 2**2 standard
#: deviations of the target.
SPREAD_BINS, SPREAD_LOW, SPREAD_PER_OCTAVE = 48, -10, 4

_SCALARS = ("items", "density_items", "log_density", "crps_items", "split_items")
_ROWS = ("square", "absolute", "error", "variance", "epistemic", "std", "crps",
         *(f"coverage_{level}" for level in LEVELS))  # fmt: skip


class RegressionMetrics(Sums):
    """Errors, spread, calibration and scores of predictive distributions of values.

    An item may hold many values (horizons, fields): all but the density are means over values,
    sums being kept per **row** (position on the first axis of an item: a horizon, a variable), so
    that the same numbers are known by row. With ``F`` the distribution function of the predictive
    mixture, a value lies in the central interval of level ``q`` if and only if
    ``|2 F(t) - 1| <= q``; coverage is kept at the levels ``k / bins``.

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
    ) -> None:
        if bins % 20:
            raise ValueError(f"bins must be a multiple of 20, got {bins}")
        super().__init__(
            _SCALARS,
            {
                "rows": (len(_ROWS), rows),
                "levels": (bins,),  # weight of the values whose smallest covering level is there
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
        self._values = 1  # of a row

    def update(
        self,
        mean: Tensor,
        variance_total: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        log_density: Tensor | None = None,
        *,
        pit: Tensor | None = None,
        crps: Tensor | None = None,
        epistemic: Tensor | None = None,
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
            ``(B, ...)``: ``F(target)`` of the predictive distribution; that of the normal
            distribution with its moments if not given.
        crps
            ``(B, ...)``: of each value, units of the target. Without it there is no ``crps``.
        epistemic
            ``(B, ...)``: the part of the variance that comes from the weights.

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
        w = w[keep]
        if w.numel() == 0:
            return

        def rowwise(x: Tensor) -> Tensor:
            return x[keep].double().reshape(len(w), self.rows, -1)

        mean, variance, truth = rowwise(mean), rowwise(variance_total), rowwise(target)
        each = self._each(w, target)  # of every value: the sum of a row is the item's weight
        self._values = truth.shape[2]
        error = mean - truth
        std = variance.sqrt()
        if pit is None:
            z = torch.where(error == 0, 0.0, -error / std)  # a sure and right one has 0 / 0
            u = torch.special.ndtr(z)
        else:
            u = rowwise(pit)
        # The smallest level whose central interval holds the value, and the bin it is in: the first
        # whose upper edge is not below it.
        level = (2 * u - 1).abs()
        edges = torch.arange(1, self.bins, dtype=torch.float64, device=w.device) / self.bins
        which = torch.bucketize(level, edges)
        parts = {
            "square": error.square(),
            "absolute": error.abs(),
            "error": error,
            "variance": variance,
            "std": std,
        } | {
            f"coverage_{q}": (which <= q * self.bins // 100 - 1).double() for q in LEVELS
        }  # fmt: skip
        if epistemic is not None:
            parts["epistemic"] = rowwise(epistemic)
        if crps is not None:
            parts["crps"] = rowwise(crps)
        rows = each.new_zeros(len(_ROWS), self.rows)
        for k, name in enumerate(_ROWS):
            if name in parts:
                rows[k] = (each * parts[name]).sum((0, 2))
        sums = {"items": w.sum()}
        if crps is not None:
            sums["crps_items"] = w.sum()
        if epistemic is not None:
            sums["split_items"] = w.sum()
        if log_density is not None:
            sums["density_items"] = w.sum()
            sums["log_density"] = (w * log_density[keep].double()).sum()
        flat = (each / self.rows).flatten()
        bin_of_pit = (u * PIT_BINS).long().clamp_(0, PIT_BINS - 1)
        typical = self._typical.to(w.device)[:, None]
        relative = (std / typical).clamp_min(1e-300)
        octave = ((relative.log2() - SPREAD_LOW) * SPREAD_PER_OCTAVE).floor().long()
        octave = octave.clamp_(0, SPREAD_BINS - 1)
        self.add(
            sums,
            {
                "rows": rows,
                "levels": per_bin(which.flatten(), self.bins, flat)[0],
                "pit": per_bin(bin_of_pit.flatten(), PIT_BINS, flat)[0],
                "spread": per_bin(
                    octave.flatten(),
                    SPREAD_BINS,
                    flat,
                    flat * (variance / typical**2).flatten(),
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

    def _by_row(self, scale: Tensor) -> dict[str, Tensor]:
        """Means over items, in the units that ``scale`` leads to."""
        sums, tables = self.read()
        mean = dict(zip(_ROWS, tables["rows"] / sums["items"], strict=True))
        for name in ("square", "variance", "epistemic"):
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
            If there were no items.
        """
        sums, _ = self.read()
        scale = torch.ones_like(self._scale) if self.mixed else self._scale
        mean = {name: float(values.mean()) for name, values in self._by_row(scale).items()}
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
                jacobian = self._values * float(self._scale.log().sum())
                result["nll_physical"] = result["nll"] + jacobian
        result["spread"] = math.sqrt(mean["variance"])
        if sums["split_items"] > 0:
            result["spread_epistemic"] = math.sqrt(mean["epistemic"])
        result["sharpness"] = mean["std"]
        result["spread_skill"] = _ratio(result["spread"], result["rmse"])
        diagram = self.reliability()
        for level in LEVELS:
            result[f"coverage_{level}"] = diagram["coverage"][level * self.bins // 100 - 1]
        inner = list(zip(diagram["level"], diagram["coverage"], strict=True))[:-1]
        result["mace"] = sum(abs(q - c) for q, c in inner) / len(inner)
        return result | {"items": sums["items"]}

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
        rmse, spread = mean["square"].sqrt(), mean["variance"].sqrt()
        result = {
            "rmse": rmse,
            "mae": mean["absolute"],
            "bias": mean["error"],
            "crps": mean["crps"],
            "spread": spread,
            "spread_skill": spread / rmse,
            "coverage_50": mean["coverage_50"],
            "coverage_90": mean["coverage_90"],
        }
        if not sums["crps_items"] > 0:
            del result["crps"]
        return {name: values.tolist() for name, values in result.items()}

    def reliability(self) -> dict[str, list[float]]:
        """Tables for diagrams of calibration.

        Returns
        -------
        dict
            ``level`` (``1/bins .. 1``) and ``coverage``, the fraction of values inside;
            ``pit``, the fraction of values per bin of ``F(target)``; ``spread``, ``error`` and
            ``share``: per bin of the predicted standard deviation its root mean square, the RMSE,
            both in standard deviations of the target, and the fraction of values there.

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        sums, tables = self.read()
        n = sums["items"]
        weight, variance, square = tables["spread"]
        filled = weight > 0
        return {
            "level": [(k + 1) / self.bins for k in range(self.bins)],
            "coverage": (tables["levels"].cumsum(0) / n).tolist(),
            "pit": (tables["pit"] / n).tolist(),
            "spread": (variance[filled] / weight[filled]).sqrt().tolist(),
            "error": (square[filled] / weight[filled]).sqrt().tolist(),
            "share": (weight[filled] / n).tolist(),
        }


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf if a > 0 else 1.0
