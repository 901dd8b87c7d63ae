"""Metrics of predictive class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.errors import DataError
from hpcsamp.metrics.sums import Sums, check_defined, item_weights, per_bin

_SCALARS = (
    "items", "count", "undefined", "correct", "nll", "brier", "entropy", "split_items", "aleatoric",
    "mutual",
)  # fmt: skip


class ClassificationMetrics(Sums):
    """Metrics of predictive class probabilities, with calibration in equal-width bins.

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

    def __init__(self, classes: int, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"a metric needs at least one bin, got {bins}")
        super().__init__(_SCALARS, {"bins": (3, bins)})  # items, sum of confidence, correct
        self.classes, self.bins = classes, bins

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
            ``(B,)`` weights, 0 for padding; 1 for all items by default.
        aleatoric
            ``(B,)``: entropy of each sample's distribution in nats, averaged over samples. Without
            it there is no mutual information.

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
        w = item_weights(weight, target)
        keep = w > 0
        w, target, log_p = w[keep], target[keep].long(), log_probabilities[keep].double()
        if target.numel() == 0:
            return
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= self.classes:
            wrong = low if low < 0 else high
            raise DataError(f"label {wrong} is out of range for {self.classes} classes")
        undefined = log_p.isnan().any(1)
        p = log_p.exp()
        confidence, predicted = p.max(dim=1)
        correct = w * (predicted == target)
        p_target = p.gather(1, target[:, None])[:, 0]
        entropy = torch.special.entr(p).sum(1)
        sums = {
            "items": w.sum(),
            "count": keep.double().sum(),
            "undefined": undefined.double().sum(),
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
        # rounding may lift a probability slightly above 1
        bin_of = (confidence.nan_to_num() * self.bins).long().clamp_(0, self.bins - 1)
        self.add(sums, {"bins": per_bin(bin_of, self.bins, w, w * confidence, correct)})

    def compute(self) -> dict[str, float]:
        """Compute the metrics of all items so far; see :mod:`hpcsamp.metrics.definitions`.

        ``aleatoric`` and ``mutual_information`` are included if ``aleatoric`` was passed to the
        updates.

        Raises
        ------
        HpcsampError
            If there were no items, or some probabilities are NaN.
        """
        sums, tables = self.read()
        check_defined(sums)
        count, confidence, correct = tables["bins"]
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
        return result | {"items": sums["count"]}

    def reliability(self) -> dict[str, list[float]]:
        """Return the calibration bins for a reliability diagram.

        Returns
        -------
        dict
            ``edges`` (bins + 1), and for each bin ``confidence`` and ``accuracy`` (means; NaN if
            the bin is empty) and ``count`` (items).

        Raises
        ------
        HpcsampError
            If there were no items.
        """
        count, confidence, correct = self.read()[1]["bins"]
        return {
            "edges": torch.linspace(0, 1, self.bins + 1, dtype=torch.float64).tolist(),
            "confidence": (confidence / count).tolist(),
            "accuracy": (correct / count).tolist(),
            "count": count.tolist(),
        }
