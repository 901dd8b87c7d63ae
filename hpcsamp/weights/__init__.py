"""The random variables of a module, and how a chunk of samples of them is evaluated."""

from hpcsamp.weights.evaluate import evaluate, refusal
from hpcsamp.weights.layout import Layout, Prior, Variable
from hpcsamp.weights.put import Put
from hpcsamp.weights.variables import PlainVariables, Variables, variables_of

__all__ = [
    "Layout",
    "PlainVariables",
    "Prior",
    "Put",
    "Variable",
    "Variables",
    "evaluate",
    "refusal",
    "variables_of",
]
