"""Priors of weights, selected by patterns of their names.

    [[method.priors]]
    pattern = "head.*"
    std = 1.0

    [[method.priors]]
    pattern = ["*.bias", "norm.*"]
    name = "torch.distributions:Laplace"
    loc = 0.0
    scale = 0.5

A normal prior has ``mean`` and ``std`` (``inf`` for a flat one). Any other prior is a class with a
method ``log_prob(weights)``, which returns log densities in nats; it has no KL in closed form and
needs ``loss.kl = "monte_carlo"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.models import Wrapping
from hpcsamp.registry import opened
from hpcsamp.spelling import shown, suggest
from hpcsamp.weights import Variables, variables_of
from hpcsamp.weights.layout import Density, Prior
from hpcsamp.weights.patterns import Which, matches

NORMAL = ("pattern", "mean", "std")
"""Keys of a normal prior."""


def chosen_variables(
    module: nn.Module,
    usual: Prior,
    bayesian: Which | None,
    rules: Sequence[Mapping[str, Any]],
) -> Variables:
    """Return the variables of a module, with the prior of each random one.

    Parameters
    ----------
    module, usual
        The module, and the default prior where no rule matches.
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
    prior = by_pattern(rules, names, usual, prefix) if rules else usual
    found = variables_of(module, prior, random)
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
    usual: Prior,
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
        Default prior, where no rule matches.
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
    return lambda name: found.get(name, usual)


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
