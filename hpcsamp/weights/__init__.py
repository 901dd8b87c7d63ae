"""Describe the random variables of a module, and evaluate samples of them in chunks."""

from hpcsamp.weights.calling import Caller
from hpcsamp.weights.choice import Passes
from hpcsamp.weights.evaluate import check_strategy, evaluate, refusal, refusals
from hpcsamp.weights.inputs import Inputs, inputs_of
from hpcsamp.weights.layout import Layout, Prior, Variable
from hpcsamp.weights.pieces import Pieces
from hpcsamp.weights.place import Masks, MaskSet, Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.variables import PlainVariables, Variables, variables_of

__all__ = [
    "Caller",
    "Inputs",
    "Layout",
    "MaskSet",
    "Masks",
    "Passes",
    "Pieces",
    "Place",
    "PlainVariables",
    "Prior",
    "Put",
    "Variable",
    "Variables",
    "check_strategy",
    "evaluate",
    "inputs_of",
    "refusal",
    "refusals",
    "variables_of",
]
