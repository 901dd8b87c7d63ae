"""Layers of networks that lie in parts on the ranks of the model axis.

A network of these layers is written once. Built as usual it is the sequential network; built
``with along(axis)``, each rank holds 1/M of it, computes on its part of the input and has its part
of the output, and everything is the sequential network's up to the order of sums.
"""

from hpcsamp.layers.attention import Attention
from hpcsamp.layers.axis import ALONE, ModelAxis, along, current
from hpcsamp.layers.dropout import Dropout
from hpcsamp.layers.exchange import gather, scatter_sum, shared, total
from hpcsamp.layers.group import Counted, Exchange, Group
from hpcsamp.layers.halo import halo
from hpcsamp.layers.imagined import ImaginedAxis, imagined
from hpcsamp.layers.layer import Divided, Layer, parts_of
from hpcsamp.layers.linear import Joined, Linear
from hpcsamp.layers.norm import LayerNorm
from hpcsamp.layers.product import Kind, Split, product
from hpcsamp.layers.strips import StripEmbedding, StripExpansion
from hpcsamp.layers.tokens import TokenMLP, TokensDown, TokensUp

__all__ = [
    "ALONE", "Attention", "Counted", "Divided", "Dropout", "Exchange", "Group", "ImaginedAxis",
    "Joined", "Kind", "Layer", "LayerNorm", "Linear", "ModelAxis", "Split", "StripEmbedding",
    "StripExpansion", "TokenMLP", "TokensDown", "TokensUp", "along", "current", "gather", "halo",
    "imagined", "parts_of", "product", "scatter_sum", "shared", "total",
]  # fmt: skip
