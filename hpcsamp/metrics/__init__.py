"""Metrics of the posterior predictive distribution, exact for any split of items over ranks.

``classification`` and ``regression`` keep sums, which are added over ranks; ``ranking`` needs the
gathered scores of all items (one value per item); ``definitions`` defines each metric.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hpcsamp.metrics.definitions import DESCRIPTIONS, definitions

if TYPE_CHECKING:
    from hpcsamp.metrics.classification import ClassificationMetrics
    from hpcsamp.metrics.confusion import Confusion
    from hpcsamp.metrics.multilabel import MultilabelMetrics
    from hpcsamp.metrics.ordinal import OrdinalMetrics
    from hpcsamp.metrics.ranking import auroc, fpr_at, risk_coverage, selective
    from hpcsamp.metrics.regression import RegressionMetrics

# Imported on first use, because reports read definitions without importing torch.
_HOME = {
    "ClassificationMetrics": "classification",
    "Confusion": "confusion",
    "MultilabelMetrics": "multilabel",
    "OrdinalMetrics": "ordinal",
    "RegressionMetrics": "regression",
    "auroc": "ranking",
    "fpr_at": "ranking",
    "risk_coverage": "ranking",
    "selective": "ranking",
}

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


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"hpcsamp.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hpcsamp.metrics' has no attribute {name!r}")
