"""Priors of weights, selected by patterns of their names.

    [[method.priors]]
    pattern = "head.*"
    std = 1.0

    [[method.priors]]
    pattern = ["*.bias", "norm.*"]
    name = "torch.distributions:Laplace"
    loc = 0.0
    scale = 0.5

A normal prior has ``mean`` and ``std`` (``inf`` for a flat one). Weights that no rule matches have
the prior of :func:`usual_prior`. Any other prior is a class with a
method ``log_prob(weights)``, which returns log densities in nats; it has no KL in closed form and
needs ``loss.kl = "monte_carlo"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.models import Wrapping
from hpcsamp.registry import opened
from hpcsamp.spelling import shown, suggest
from hpcsamp.weights import Variables, variables_of
from hpcsamp.weights.layout import Density, Learned, Prior, Variable
from hpcsamp.weights.patterns import Which, matches
from hpcsamp.weights.variables import fan_in

Kind = Literal["normal", "scaled", "empirical_bayes"]
"""Kinds of the prior of all weights, see :func:`usual_prior`."""
NORMAL = ("pattern", "mean", "std")
"""Keys of a normal prior."""


def normal_prior(variable: Variable) -> Learned | tuple[float, float] | None:
    """Return the prior of a variable for the normal arithmetic; None too if it is not normal."""
    return None if isinstance(variable.prior, Density) else variable.prior


def usual_prior(kind: Kind, mean: float, std: float, module: nn.Module) -> Callable[[str], Prior]:
    """Return the prior of each parameter of a module by its name.

    Parameters
    ----------
    kind
        ``"normal"``: ``N(mean, std^2)``. ``"scaled"``: ``N(mean, std^2 / fan in)``, where all
        parameters of a layer, also its bias, have the fan in of its weight (Neal 1996, for
        weights). ``"empirical_bayes"``: a variance for each layer that is learnt, see
        :mod:`hpcsamp.methods.learned_prior`.

    Raises
    ------
    UsageError
        If the kind is unknown.
    """
    if kind not in get_args(Kind):
        raise UsageError(
            f"method.prior = {kind!r} is unknown{suggest(kind, get_args(Kind))}; choose from "
            f"{', '.join(get_args(Kind))}"
        )
    if kind == "empirical_bayes":
        return lambda name: Learned(name.rpartition(".")[0], mean)
    inputs = fan_in(module) if kind == "scaled" else {}
    return lambda name: (mean, math.log(std / math.sqrt(inputs.get(name, 1))))


def chosen_variables(
    module: nn.Module,
    usual: Callable[[str], Prior],
    bayesian: Which | None,
    rules: Sequence[Mapping[str, Any]],
) -> Variables:
    """Return the variables of a module, with the prior of each random one.

    Parameters
    ----------
    module, usual
        The module, and the prior by name where no rule matches.
    bayesian
        Which parameters are random, see :class:`~hpcsamp.methods.mean_field.MeanField`.
    rules
        See :func:`by_pattern`.
    """
    prefix = "network." if isinstance(module, Wrapping) else ""
    first: dict[int, str] = {}  # a parameter with several names has the first one
    names = {
        n: first.setdefault(id(p), n)
        for n, p in module.named_parameters(remove_duplicate=False)
        if p.requires_grad
    }
    random: Callable[[str], bool] | None = None
    if bayesian is not None:
        chosen = {names[n] for n in matches("method.bayesian", bayesian, names, prefix)}
        random = chosen.__contains__
    found = variables_of(module, by_pattern(rules, names, usual, prefix), random)
    drawn = {v.name for v in found.random.variables}
    for number, rule in enumerate(rules):
        key = f"method.priors[{number}].pattern"
        if not {names[n] for n in matches(key, _patterns(rule), names, prefix)} & drawn:
            raise UsageError(
                f"{key} = {shown(rule['pattern'])} matches only parameters without uncertainty; "
                f"name them in method.bayesian as well"
            )
    return found


def by_pattern(
    rules: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    usual: Callable[[str], Prior],
    prefix: str = "",
) -> Callable[[str], Prior]:
    """Return the prior of each parameter; if several rules match, the last one applies.

    Parameters
    ----------
    rules
        Tables with a ``pattern`` or a list of patterns, and a prior. In Python ``name`` may also be
        an object with ``log_prob``.
    names
        Names of all parameters, each with the name that is compared with patterns.
    usual
        Prior by name, where no rule matches.
    prefix
        See :func:`~hpcsamp.weights.patterns.matches`.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or a prior is not valid.
    """
    found: dict[str, Prior] = {}
    for number, rule in enumerate(rules):
        key = f"method.priors[{number}]"
        if not isinstance(rule, Mapping) or not rule.get("pattern"):
            raise UsageError(f'{key} = {shown(rule)}: a table with pattern = "..." is needed')
        patterns = _patterns(rule)
        if not all(isinstance(p, str) for p in patterns):
            raise UsageError(f"{key}.pattern = {shown(patterns)} must be a string or strings")
        prior = _density(key, rule) if "name" in rule else _normal(key, rule)
        for name in matches(f"{key}.pattern", patterns, names, prefix):
            found[names[name]] = prior
    return lambda name: found[name] if name in found else usual(name)


def _patterns(rule: Mapping[str, Any]) -> list[str]:
    patterns = rule["pattern"]
    return list(patterns) if isinstance(patterns, list | tuple) else [patterns]


def _normal(key: str, rule: Mapping[str, Any]) -> Prior:
    for other in rule:
        if other not in NORMAL:
            near = suggest(other, NORMAL) or f"; choose from {', '.join(NORMAL)}, or name"
            raise UsageError(f"unknown key '{key}.{other}'{near}")
    mean = _number(f"{key}.mean", rule.get("mean", 0.0))
    std = _number(f"{key}.std", rule.get("std"))
    if std <= 0:
        raise UsageError(f"{key}.std = {std} must be greater than 0")
    if math.isinf(mean):
        raise UsageError(f"{key}.mean = {mean} must be finite")
    return None if math.isinf(std) else (mean, math.log(std))


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise UsageError(f"{key} = {shown(value)}: a number is needed")
    return float(value)


def _density(key: str, rule: Mapping[str, Any]) -> Density:
    name = rule["name"]
    made = name
    if isinstance(name, str):
        try:
            kind = opened(name)
        except (ImportError, AttributeError) as e:
            raise UsageError(f"{key}.name = {name!r}: {e}") from e
        given = {k: v for k, v in rule.items() if k not in ("pattern", "name")}
        made = free.called("prior", name, kind, **given)
    if not callable(getattr(made, "log_prob", None)):
        raise UsageError(f"{key}.name = {shown(name)} has no method log_prob(weights)")
    log_prob: Callable[[Tensor], Tensor] = made.log_prob
    return Density(type(made).__name__, lambda weights, _: log_prob(weights))
