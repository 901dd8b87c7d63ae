"""Metrics of predictions as sums: accumulate on every rank, add the state vectors, compute once.

Each metric keeps its sufficient statistics (counts, sums, sums per bin) in one flat float64
vector, ``state``. Adding the vectors of several ranks gives the vector of all their items, so
metrics over a cluster cost one small sum and equal those of a single process. Items of weight 0
(the padding of a last batch) count nowhere, whatever they hold.

torchmetrics defines the same numbers, and the tests hold these to its; it is not used here because
it knows no item weights, accumulates in float32, and keeps every prediction for its calibration
error, where 45 numbers do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hpcsamp.errors import DataError, HpcsampError

#: What each number is, for tables and captions.
DESCRIPTIONS: Mapping[str, str] = {
    "accuracy": "fraction of items whose most probable class is right",
    "nll": "negative log predictive density, nats per item",
    "brier": "Brier score, sum over classes of squared differences, 0 to 2",
    "ece": "expected calibration error: mean |confidence - accuracy| over bins, weighted by items",
    "mace": "mean absolute calibration error: the same over non-empty bins, unweighted",
    "entropy": "total uncertainty: entropy of the predictive distribution, nats",
    "aleatoric": "aleatoric uncertainty: mean entropy of the samples' predictions, nats",
    "mutual_information": "epistemic uncertainty: total minus aleatoric, nats",
    "rmse": "root mean squared error of the predictive mean, units of the target",
    "mae": "mean absolute error of the predictive mean, units of the target",
    "spread": "root mean predictive variance, units of the target",
    "coverage_50": "fraction of values inside the central 50 % interval",
    "coverage_90": "fraction of values inside the central 90 % interval",
    "coverage_95": "fraction of values inside the central 95 % interval",
    "items": "items evaluated",
}


class _Sums:
    """Named sums and a table of sums per bin, as views of one float64 vector.

    Attributes
    ----------
    state
        ``(len(scalars) + rows * bins,)`` float64 on the CPU. Add other ranks' vectors to it in
        place.
    """

    _scalars: tuple[str, ...]
    _rows: int

    def __init__(self, bins: int) -> None:
        if bins < 1:
            raise ValueError(f"a metric needs at least one bin, got {bins}")
        self.bins = bins
        self.state = torch.zeros(len(self._scalars) + self._rows * bins, dtype=torch.float64)

    def _add(self, sums: Mapping[str, Tensor], table: Tensor) -> None:
        """Add one batch: a 0-d tensor per scalar that is known, and ``(rows, bins)``."""
        zero = table.new_zeros(())
        flat = torch.stack([sums.get(name, zero) for name in self._scalars])
        self.state += torch.cat([flat, table.flatten()]).cpu()

    def _read(self) -> tuple[dict[str, float], Tensor]:
        """The sums by name, and the table.

        Raises
        ------
        HpcsampError
            If nothing has been accumulated.
        """
        known = len(self._scalars)
        sums = dict(zip(self._scalars, self.state[:known].tolist(), strict=True))
        if not sums["items"] > 0:
            raise HpcsampError("no items to compute metrics of: none was seen, or all had weight 0")
        return sums, self.state[known:].reshape(self._rows, self.bins)


class ClassificationMetrics(_Sums):
    """Metrics of predictive probabilities, and their calibration in equal-width bins.

    Confidence is the largest probability. Bins are ``[k/bins, (k+1)/bins)``, the last one closed.
    With ``c_k`` and ``a_k`` the mean confidence and accuracy of the ``n_k`` items of bin ``k``::

        ece  = sum_k n_k / n * |c_k - a_k|                    (Guo et al. 2017, eq. 3)
        mace = mean over bins with n_k > 0 of |c_k - a_k|     (bin-unweighted: a bin of one item
                                                               counts as much as one of a thousand)

    MACE is the calibration error of the sampling-parallelism paper (arXiv 2604.04736). The Brier
    score is ``sum_c (p_c - [c = t])**2``, from 0 to 2. Uncertainties are in nats: total = entropy
    of the predictive mean, aleatoric = mean entropy of the samples, mutual information = the
    difference (Depeweg et al. 2018).

    Parameters
    ----------
    classes
        ``C``, number of classes.
    bins
        Number of calibration bins.
    """

    _scalars = (
        "items", "correct", "nll", "brier", "entropy", "split_items", "aleatoric", "mutual",
    )  # fmt: skip
    _rows = 3  # per bin: items, sum of confidence, correct

    def __init__(self, classes: int, bins: int = 15) -> None:
        super().__init__(bins)
        self.classes = classes

    def update(
        self,
        log_probabilities: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        aleatoric: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        log_probabilities
            ``(B, C)``: logarithm of the predictive mean over all S samples.
        target
            ``(B,)`` class labels, ``0 .. C-1``.
        weight
            ``(B,)`` weights, 0 for padding; 1 for all if not given.
        aleatoric
            ``(B,)``: mean over the samples of the entropy of each, in nats. Without it there is no
            mutual information.

        Raises
        ------
        DataError
            If an item of non-zero weight has a label outside ``0 .. C-1``.
        ValueError
            If the shapes do not fit.
        """
        if log_probabilities.ndim != 2 or log_probabilities.shape[1] != self.classes:
            raise ValueError(
                f"log_probabilities must have shape (B, {self.classes}), "
                f"got {tuple(log_probabilities.shape)}"
            )
        w = _weights(weight, target)
        keep = w > 0
        w, target, log_p = w[keep], target[keep].long(), log_probabilities[keep].double()
        if target.numel() == 0:
            return
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= self.classes:
            wrong = low if low < 0 else high
            raise DataError(f"label {wrong} is out of range for {self.classes} classes")
        p = log_p.exp()
        confidence, predicted = p.max(dim=1)
        correct = w * (predicted == target)
        p_target = p.gather(1, target[:, None])[:, 0]
        entropy = torch.special.entr(p).sum(1)
        sums = {
            "items": w.sum(),
            "correct": correct.sum(),
            "nll": -(w * log_p.gather(1, target[:, None])[:, 0]).sum(),
            "brier": (w * (p.square().sum(1) - 2 * p_target + 1)).sum(),
            "entropy": (w * entropy).sum(),
        }
        if aleatoric is not None:
            each = aleatoric[keep].double()
            sums["split_items"] = w.sum()
            sums["aleatoric"] = (w * each).sum()
            sums["mutual"] = (w * (entropy - each)).sum()
        # Rounding may put a probability a hair above 1.
        bin_of = (confidence * self.bins).long().clamp_(0, self.bins - 1)
        table = torch.zeros(3, self.bins, dtype=torch.float64, device=p.device)
        table.index_add_(1, bin_of, torch.stack([w, w * confidence, correct]))
        self._add(sums, table)

    def compute(self) -> dict[str, float]:
        """The metrics of all items so far; :data:`DESCRIPTIONS` says what each is.

        ``aleatoric`` and ``mutual_information`` are there if the updates gave ``aleatoric``.

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        sums, (count, confidence, correct) = self._read()
        n = sums["items"]
        # n_k * |c_k - a_k| of each bin, without dividing by an empty one
        gap = (confidence - correct).abs()
        filled = count > 0
        result = {
            "accuracy": sums["correct"] / n,
            "nll": sums["nll"] / n,
            "brier": sums["brier"] / n,
            "ece": float(gap.sum()) / n,
            "mace": float((gap[filled] / count[filled]).mean()),
            "entropy": sums["entropy"] / n,
        }
        if sums["split_items"] > 0:
            result["aleatoric"] = sums["aleatoric"] / sums["split_items"]
            result["mutual_information"] = sums["mutual"] / sums["split_items"]
        return result | {"items": n}

    def reliability(self) -> dict[str, list[float]]:
        """The calibration bins, for a reliability diagram.

        Returns
        -------
        dict
            ``edges`` (bins + 1), and per bin ``confidence`` and ``accuracy`` (means; NaN where
            empty) and ``count`` (items).

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        _, (count, confidence, correct) = self._read()
        return {
            "edges": torch.linspace(0, 1, self.bins + 1, dtype=torch.float64).tolist(),
            "confidence": (confidence / count).tolist(),
            "accuracy": (correct / count).tolist(),
            "count": count.tolist(),
        }


class RegressionMetrics(_Sums):
    """Metrics of predictive means and variances, and the coverage of central intervals.

    An item may hold many values (a field): errors and coverages are means over values, the log
    density is that of the whole item. The central interval of level ``q`` is
    ``mean +- z((1 + q) / 2) * sqrt(variance_total)``, that is, of the normal distribution with the
    moments of the predictive mixture. Coverage is accumulated at the levels ``k / bins``.

    Parameters
    ----------
    bins
        Number of levels; 20 gives 5 %, 10 %, ... A multiple of 20 has 50, 90 and 95 % among them.

    Raises
    ------
    ValueError
        If ``bins`` is not a multiple of 20.
    """

    _scalars = ("items", "square", "absolute", "variance", "density_items", "log_density")
    _rows = 1  # weight of the values whose smallest covering level is in the bin
    levels = (50, 90, 95)

    def __init__(self, bins: int = 20) -> None:
        if bins % 20:
            raise ValueError(f"bins must be a multiple of 20, got {bins}")
        super().__init__(bins)

    def update(
        self,
        mean: Tensor,
        variance_total: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        log_density: Tensor | None = None,
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
        w = _weights(weight, target)
        keep = w > 0
        w = w[keep]
        if w.numel() == 0:
            return
        mean, variance, target = (
            t[keep].double().reshape(len(w), -1) for t in (mean, variance_total, target)
        )
        error = (target - mean).abs()
        sums = {
            "items": w.sum(),
            "square": (w * error.square().mean(1)).sum(),
            "absolute": (w * error.mean(1)).sum(),
            "variance": (w * variance.mean(1)).sum(),
        }
        if log_density is not None:
            sums["density_items"] = w.sum()
            sums["log_density"] = (w * log_density[keep].double()).sum()
        # The smallest level whose interval holds the value; a sure and right prediction has 0 / 0.
        level = torch.erf(error / (2 * variance).sqrt()).where(error > 0, torch.zeros_like(error))
        edges = torch.arange(1, self.bins, dtype=torch.float64, device=w.device) / self.bins
        table = torch.zeros(1, self.bins, dtype=torch.float64, device=w.device)
        each = (w[:, None] / error.shape[1]).expand_as(error)
        table[0].index_add_(0, torch.bucketize(level, edges).flatten(), each.flatten())
        self._add(sums, table)

    def compute(self) -> dict[str, float]:
        """The metrics of all items so far; :data:`DESCRIPTIONS` says what each is.

        ``nll`` is there if the updates gave ``log_density``.

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        sums, _ = self._read()
        n = sums["items"]
        result = {"rmse": math.sqrt(sums["square"] / n), "mae": sums["absolute"] / n}
        if sums["density_items"] > 0:
            result["nll"] = -sums["log_density"] / sums["density_items"]
        result["spread"] = math.sqrt(sums["variance"] / n)
        coverage = self.reliability()["coverage"]
        for level in self.levels:
            result[f"coverage_{level}"] = coverage[level * self.bins // 100 - 1]
        return result | {"items": n}

    def reliability(self) -> dict[str, list[float]]:
        """Observed against nominal coverage of the central intervals.

        Returns
        -------
        dict
            ``level`` (``1/bins .. 1``) and ``coverage``, the fraction of values inside.

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        sums, table = self._read()
        return {
            "level": [(k + 1) / self.bins for k in range(self.bins)],
            "coverage": (table[0].cumsum(0) / sums["items"]).tolist(),
        }


def _weights(weight: Tensor | None, target: Tensor) -> Tensor:
    """``(B,)`` float64 weights."""
    if weight is None:
        return torch.ones(len(target), dtype=torch.float64, device=target.device)
    return weight.double()
