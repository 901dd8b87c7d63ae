"""Samples folded into the batch: activations ``(k * B, ...)``, parameters with a samples axis.

What treats the items of a batch alone (activation functions, residuals, attention, pooling) runs on
folded tensors as it is. Only operations that meet a :class:`Sampled` parameter need a rule.
"""

from hpcsamp.weights.folding.dispatch import dispatch
from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.sampled import Sampled

__all__ = ["Fold", "Sampled", "dispatch"]
