"""Samples folded into the batch: activations ``(k * B, ...)``, parameters with a samples axis.

Operations that treat the items of a batch separately (activation functions, residuals, attention,
pooling) run unchanged on folded tensors. Only operations on a :class:`Sampled` parameter need a
rule.
"""

from hpcsamp.weights.folding.dispatch import dispatch
from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.sampled import Sampled

__all__ = ["Fold", "Sampled", "dispatch"]
