"""Metrics of the posterior predictive, exact for any split of items and samples over ranks.

``classification`` and ``regression`` keep sums, which add up over ranks; ``ranking`` needs the
scores of all items (one number per item, gathered); ``definitions`` says what each number is.
"""

from __future__ import annotations

from hpcsamp.metrics.classification import ClassificationMetrics
from hpcsamp.metrics.confusion import Confusion
from hpcsamp.metrics.definitions import DESCRIPTIONS, definitions
from hpcsamp.metrics.multilabel import MultilabelMetrics
from hpcsamp.metrics.ordinal import OrdinalMetrics
from hpcsamp.metrics.ranking import auroc, fpr_at, risk_coverage, selective
from hpcsamp.metrics.regression import RegressionMetrics

__all__ = [
    "DESCRIPTIONS",
    "ClassificationMetrics",
    "Confusion",
    "MultilabelMetrics",
    "OrdinalMetrics",
    "RegressionMetrics",
    "auroc",
    "definitions",
    "fpr_at",
    "risk_coverage",
    "selective",
]
