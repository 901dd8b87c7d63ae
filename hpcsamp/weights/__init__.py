"""The random variables of a module, and how a chunk of samples of them is evaluated."""

from hpcsamp.weights.layout import Layout, Prior, Variable
from hpcsamp.weights.variables import PlainVariables, Variables, variables_of

__all__ = ["Layout", "PlainVariables", "Prior", "Variable", "Variables", "variables_of"]
