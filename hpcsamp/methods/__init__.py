"""Sampling methods, one per file, all with the interface of :class:`.Method`."""

from hpcsamp.methods.base import Method
from hpcsamp.methods.batch_ensemble import BatchEnsemble
from hpcsamp.methods.ensemble import Ensemble
from hpcsamp.methods.flipout import Flipout
from hpcsamp.methods.ivon import Ivon
from hpcsamp.methods.last_layer import LastLayer
from hpcsamp.methods.local_reparameterisation import LocalReparameterisation
from hpcsamp.methods.mc_dropout import MCDropout
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.methods.rank1 import Rank1
from hpcsamp.methods.registry import make
from hpcsamp.methods.sgld import Chains
from hpcsamp.methods.svgd import SVGD
from hpcsamp.methods.swag import SWAG
from hpcsamp.names import METHODS

__all__ = [
    "METHODS",
    "SVGD",
    "SWAG",
    "BatchEnsemble",
    "Chains",
    "Ensemble",
    "Flipout",
    "Ivon",
    "LastLayer",
    "LocalReparameterisation",
    "MCDropout",
    "MeanField",
    "Method",
    "Rank1",
    "make",
]
