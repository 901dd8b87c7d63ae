"""How weights are sampled: one method a file, the same verbs in each."""

from hpcsamp.methods.base import Method
from hpcsamp.methods.mean_field import MeanField

__all__ = ["MeanField", "Method"]
