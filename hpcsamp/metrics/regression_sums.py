"""Sums over items from which the metrics of predictive distributions of values are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hpcsamp.metrics.pit import coverage, histogram, within
from hpcsamp.metrics.sums import Sums, item_weights, per_bin

#: Central intervals whose coverage is reported, in per cent.
LEVELS = (50, 80, 90, 95)
#: Number of bins of the histogram of the probability integral transform.
PIT_BINS = 20
#: Bins of the predicted standard deviation: quarter octaves from 2**-10 to 2**2 standard
#: deviations of the target.
SPREAD_BINS, SPREAD_LOW, SPREAD_PER_OCTAVE = 48, -10, 4

SCALARS = (
    "items", "count", "undefined", "density_items", "log_density", "jacobian", "crps_items",
    "split_items",
)  # fmt: skip
ROWS = ("weight", "square", "absolute", "error", "variance", "expected", "epistemic", "std",
         "crps",
         *(f"coverage_{level}" for level in LEVELS))  # fmt: skip
POWERS = {"square": 2, "variance": 2, "expected": 2, "epistemic": 2,
          "absolute": 1, "error": 1, "std": 1, "crps": 1}  # fmt: skip
"""Sums that have the unit of the target, with the power of the unit."""


class RegressionSums(Sums):
    """Sums of errors, variances and scores by row, and of weights by level, PIT bin and spread.

    Parameters
    ----------
    bins, rows, weights, scale, mixed, typical, samples, alone
        See :class:`~hpcsamp.metrics.regression.RegressionMetrics`.

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
            SCALARS,
            {
                "rows": (len(ROWS), rows),
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
        scale: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        mean, variance_total
            ``(B, ...)``: moments of the predictive distribution, in units of the target and squared
            units; the variance includes observation noise.
        target
            ``(B, ...)``.
        weight
            ``(B,)`` weights of items, 0 for padding; 1 for all items by default.
        log_density
            ``(B,)``: ``log mean_s p(target | sample s)`` of the predictive mixture, in nats, summed
            over the values of an item. Without it there is no ``nll``.
        pit
            ``(B, ...)`` each: the predictive distribution function ``F`` just below the target and
            at it; by default that of a normal distribution with the same moments.
        crps
            ``(B, ...)``: CRPS of each value, in units of the target. Without it there is no
            ``crps``.
        epistemic
            ``(B, ...)``: the part of the variance that comes from the weights.
        known
            ``(B, ...)`` bool: False for missing values of the target. They are ignored, as are
            items without a known value; ``log_density`` is the density of the known values.
        scale
            ``(B, rows)`` or ``(B, 1)``: for every item, units of the target per unit of the
            arguments, by which its errors and spreads are multiplied; 1 by default. The scale of
            the constructor is applied to the sums.

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
        each = self._each(w, target)  # weights of values; a row sums to the weight of the item
        if known is not None:
            known = known.reshape(truth.shape)
            each = each * known
            truth = torch.where(known, truth, mean)
        error = mean - truth
        std = variance.sqrt()
        if pit is None:
            z = torch.where(error == 0, 0.0, -error / std)  # 0 / 0 if certain and correct
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
            # unbiased; the variance of a single sample is not defined
            parts["epistemic"] = rowwise(epistemic) * _over(self._samples, self._samples - 1)
            parts["variance"] = variance - rowwise(epistemic) + parts["epistemic"]
            parts["expected"] = parts["variance"] + parts["epistemic"] / self._samples
        expected = parts["expected"]
        if crps is not None:
            parts["crps"] = rowwise(crps)
            if known is not None:
                parts["crps"] = torch.where(known, parts["crps"], 0.0)
        parts["weight"] = torch.ones_like(error)
        by_item = None
        if scale is not None:
            by_item = scale[keep].double().to(error.device)[:, :, None].expand(-1, self.rows, -1)
            for name, power in POWERS.items():
                if name in parts:
                    parts[name] = parts[name] * by_item**power
        rows = each.new_zeros(len(ROWS), self.rows)
        for k, name in enumerate(ROWS):
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
            logs = logs if by_item is None else logs + by_item.log()
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
                    flat * (expected / typical**2).flatten(),
                    flat * (error / typical).square().flatten(),
                ),
            },
        )

    def _each(self, w: Tensor, target: Tensor) -> Tensor:
        """Weights of values, ``(B, rows, n)``; in each row they sum to the weight of the item."""
        shape = (1, *target.shape[1:])
        if self._weights is None:
            over = target.new_ones(shape, dtype=torch.float64)
        else:
            over = self._weights.to(target.device).expand(shape)
        over = over.reshape(1, self.rows, -1)
        return w[:, None, None] * (over / over.sum(2, keepdim=True))

    def _known(self) -> Tensor:
        """Sum of the weights of all known values, divided by the number of rows."""
        return self.read()[1]["rows"][0].mean()


def _over(a: float, b: float) -> float:
    return 1.0 if math.isinf(a) else a / b if b > 0 else math.nan
