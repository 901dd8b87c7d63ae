"""Metrics of multi-label classification: several labels for each item, each 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpcsamp.metrics.sums import Sums, check_defined, per_bin

_EACH = (
    "weight", "correct", "positive", "predicted", "both", "brier", "nll", "entropy", "aleatoric",
)  # fmt: skip


class MultilabelMetrics(Sums):
    """Metrics of the predictive probability ``p`` of each label, and means over labels.

    A label is predicted if ``p > 1/2``. With ``c_k`` the mean ``p`` and ``a_k`` the fraction of
    ones in bin k of ``p``, the ``ece`` of a label is ``sum_k n_k / n |c_k - a_k|``. The F1 score of
    a label that neither occurs nor is predicted is 0. Metrics over all labels are plain means over
    labels (macro), except ``nll``, the entropies and ``exact_match`` (all known labels of an item
    are predicted correctly), which are per item; ``f1_micro`` pools the labels.

    Parameters
    ----------
    labels
        Number of labels, ``L``.
    bins
        Number of calibration bins.
    """

    def __init__(self, labels: int, bins: int = 15) -> None:
        super().__init__(
            ("items", "count", "undefined", "exact"),
            {"each": (len(_EACH), labels), "bins": (3, labels, bins)},
        )
        self.labels, self.bins = labels, bins

    def update(
        self,
        log_probabilities: Tensor,
        target: Tensor,
        weight: Tensor,
        aleatoric: Tensor,
        known: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        log_probabilities
            ``(B, L, 2)``: logarithm of the predictive mean probability that a label is 0 and 1.
        target
            ``(B, L)`` labels, 0 or 1.
        weight
            ``(B,)`` weights of items, 0 for padding.
        aleatoric
            ``(B, L)`` nats, mean entropy of the samples.
        known
            ``(B, L)``: False for missing labels, which are ignored.
        """
        keep = weight > 0
        if known is not None:
            keep = keep & known.any(1)
        w = weight[keep].double()
        if not len(w):
            return
        there = torch.ones_like(target[keep], dtype=torch.bool) if known is None else known[keep]
        each = w[:, None] * there
        log_p = log_probabilities[keep].double()
        t = torch.where(there, target[keep], 0)
        p = log_p[..., 1].exp()
        predicted, true = (p > 0.5).double(), t.double()
        parts = {
            "weight": torch.ones_like(p),
            "correct": (predicted == true).double(),
            "positive": true,
            "predicted": predicted,
            "both": predicted * true,
            "brier": (p - true).square(),
            "nll": -log_p.gather(-1, t[..., None].long())[..., 0],
            "entropy": torch.special.entr(log_p.exp()).sum(-1),
            "aleatoric": aleatoric[keep].double(),
        }
        # a weight of 0 does not cancel the infinite loss of a missing label
        rows = [(each * torch.where(there, parts[n], 0.0)).sum(0) for n in _EACH]
        which = (p.nan_to_num() * self.bins).long().clamp_(0, self.bins - 1)
        place = which + self.bins * torch.arange(self.labels, device=w.device)
        table = per_bin(
            place.flatten(),
            self.labels * self.bins,
            each.flatten(),
            (each * p).nan_to_num().flatten(),
            (each * true).flatten(),
        )
        self.add(
            {
                "items": w.sum(),
                "count": keep.double().sum(),
                "undefined": log_p.isnan().flatten(1).any(1).double().sum(),
                "exact": (w * ((predicted == true) | ~there).all(1)).sum(),
            },
            {"each": torch.stack(rows), "bins": table},
        )

    def by_label(self) -> dict[str, Tensor]:
        """Compute the metrics of each label, ``(L,)`` each; NaN for labels without values."""
        each = dict(zip(_EACH, self.read()[1]["each"], strict=True))
        n, share = each["weight"], each["positive"] + each["predicted"]
        _, confidence, positive = self.read()[1]["bins"]
        return {
            "accuracy": each["correct"] / n,
            "f1": torch.where(share > 0, 2 * each["both"] / share, 0.0).where(n > 0, torch.nan),
            "brier": each["brier"] / n,
            "nll": each["nll"] / n,
            "ece": (confidence - positive).abs().sum(1) / n,
            "prevalence": each["positive"] / n,
        }

    def compute(self) -> dict[str, float]:
        """Compute the metrics of all items so far.

        Raises
        ------
        HpcsampError
            If there were no items, or some probabilities are NaN.
        """
        sums, tables = self.read()
        check_defined(sums)
        each = dict(zip(_EACH, tables["each"], strict=True))
        n, labels = sums["items"], self.by_label()
        both, share = float(each["both"].sum()), float((each["positive"] + each["predicted"]).sum())
        total, inner = float(each["entropy"].sum()) / n, float(each["aleatoric"].sum()) / n
        return {
            "accuracy": float(labels["accuracy"].nanmean()),
            "exact_match": sums["exact"] / n,
            "f1": float(labels["f1"].nanmean()),
            "f1_micro": 2 * both / share if share > 0 else 0.0,
            "nll": float(each["nll"].sum()) / n,
            "brier": float(labels["brier"].nanmean()),
            "ece": float(labels["ece"].nanmean()),
            "entropy": total,
            "aleatoric": inner,
            "mutual_information": total - inner,
            "items": sums["count"],
        }

    def reliability(self) -> Mapping[str, list[float]]:
        """Return the calibration bins of all labels together, as classification metrics do."""
        count, confidence, positive = self.read()[1]["bins"].sum(1)
        return {
            "edges": torch.linspace(0, 1, self.bins + 1, dtype=torch.float64).tolist(),
            "confidence": (confidence / count).tolist(),
            "accuracy": (positive / count).tolist(),
            "count": count.tolist(),
        }
