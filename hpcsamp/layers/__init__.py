"""Layers of networks that are split over the ranks of the model axis.

A network of these layers is written once. Built as usual, it is the sequential network; built
within ``along(axis)``, each rank holds 1/M of it, computes on its part of the input and holds its
part of the output. The results are those of the sequential network up to the order of sums.

Layers with lower-case names (:func:`linear`, :func:`layer_norm`, :func:`patches`, ...) are those of
``torch.nn`` on one rank; on several ranks their parameters have the same names and whole shapes.
"""

from hpcsamp.layers.attention import Attention
from hpcsamp.layers.axis import ALONE, ModelAxis, along, current
from hpcsamp.layers.dropout import Dropout
from hpcsamp.layers.exchange import gather, scatter_sum, shared, total
from hpcsamp.layers.group import Counted, Exchange, Group
from hpcsamp.layers.halo import halo, rolled
from hpcsamp.layers.imagined import ImaginedAxis, imagined
from hpcsamp.layers.layer import Divided, Layer, parts_of
from hpcsamp.layers.linear import Joined, Linear
from hpcsamp.layers.norm import LayerNorm
from hpcsamp.layers.patches import Patches, Unpatched, patches, unpatched
from hpcsamp.layers.product import Kind, Split, product
from hpcsamp.layers.rows import Last, Norm, Rows, last_linear, layer_norm, linear, outputs_of
from hpcsamp.layers.strips import StripEmbedding, StripExpansion
from hpcsamp.layers.tokens import TokenMLP, TokensDown, TokensUp

__all__ = [
    "ALONE", "Attention", "Counted", "Divided", "Dropout", "Exchange", "Group", "ImaginedAxis",
    "Joined", "Kind", "Last", "Layer", "LayerNorm", "Linear", "ModelAxis", "Norm", "Patches",
    "Rows", "Split", "StripEmbedding", "StripExpansion", "TokenMLP", "TokensDown", "TokensUp",
    "Unpatched", "along", "current", "gather", "halo", "imagined", "last_linear", "layer_norm",
    "linear", "outputs_of", "parts_of", "patches", "product", "rolled", "scatter_sum", "shared",
    "total", "unpatched",
]  # fmt: skip
