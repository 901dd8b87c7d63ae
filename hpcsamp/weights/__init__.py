"""The random variables of a module, and how a chunk of samples of them is evaluated."""

from hpcsamp.weights.choice import Passes
from hpcsamp.weights.evaluate import check_strategy, evaluate, refusal, refusals
from hpcsamp.weights.layout import Layout, Prior, Variable
from hpcsamp.weights.put import Put
from hpcsamp.weights.variables import PlainVariables, Variables, variables_of

__all__ = [
    "Layout",
    "Passes",
    "PlainVariables",
    "Prior",
    "Put",
    "Variable",
    "Variables",
    "check_strategy",
    "evaluate",
    "refusal",
    "refusals",
    "variables_of",
]
