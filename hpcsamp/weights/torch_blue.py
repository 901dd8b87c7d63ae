"""The random variables of a module that contains torch_blue's ``VIModule``.

torch_blue would draw without a seed, and again at every access. Therefore each variable's
distribution is replaced by one that returns the value that was set for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_blue.vi import VILinear, VIModule, VIReturn
from torch_blue.vi.distributions import MeanFieldNormal, UniformPrior

from hpcsamp.errors import UsageError
from hpcsamp.weights.calling import Caller
from hpcsamp.weights.complex_parts import complex_of, parts_of
from hpcsamp.weights.layout import Density, Prior, Variable
from hpcsamp.weights.variables import (
    Variables,
    check_parameters,
    constants_of,
    deterministic_of,
    initial_log_stds,
)


class Supplied(MeanFieldNormal):
    """A distribution that returns the weights of the sample that is being evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.value: Any = None

    def sample(self, parameters: Any) -> Any:
        """Return the weights that were set for the current sample."""
        if self.value is None:
            raise RuntimeError(
                "this module now belongs to an hpcsamp method: call the method, "
                "method(x, samples=range(S)), not the module"
            )
        return self.value


class TorchBlueVariables(Variables):
    """Variables, priors and initial values of torch_blue's modules.

    Raises
    ------
    UsageError
        If a variable is frozen, or its distribution or prior is not supported; the message names
        the variable.
    """

    def __init__(
        self,
        module: nn.Module,
        prior: Prior | Callable[[str], Prior] = None,
        random: Callable[[str], bool] | None = None,
    ) -> None:
        check_parameters(module)
        self._supplied: dict[str, Supplied] = {}
        self._mean: dict[str, nn.Parameter] = {}
        self._log_std: dict[str, nn.Parameter] = {}
        found = []
        for path, part in module.named_modules():
            if not isinstance(part, VIModule):
                continue
            part._has_sampling_responsibility = False
            part._return_log_probs = False
            if isinstance(part, VILinear):
                part._fast_path_flag = False  # the fast path draws outputs, not weights
            for variable in part.random_variables or ():
                distribution = part.variational_distribution[variable]
                if distribution is None:
                    continue
                name = f"{path}.{variable}" if path else variable
                mean, log_std = _normal_parameters(part, variable, name)
                if not (mean.requires_grad and log_std.requires_grad):
                    raise UsageError(
                        f"{name} is a random variable whose distribution is frozen (requires_grad "
                        f"is false); make it trainable, or use a plain layer with a frozen "
                        f"parameter instead"
                    )
                self._mean[name], self._log_std[name] = mean, log_std
                prior_of_it = _prior(part, variable)
                found.append(Variable(name, mean.shape, prior_of_it))
                self._supplied[name] = part.variational_distribution[variable] = Supplied()
        owned = {id(p) for p in (*self._mean.values(), *self._log_std.values())}
        named = dict(module.named_parameters())
        self._fixed = {n: p for n, p in named.items() if id(p) not in owned and p.requires_grad}
        self._own = {n: p for n, p in named.items() if id(p) in owned or n in self._fixed}
        marked = deterministic_of(module)
        for n, p in self._fixed.items():
            drawn = random is not None and n not in marked and random(n)
            own = prior(n) if callable(prior) else prior
            prior_of_it = own if drawn else None
            found.append(Variable(n, parts_of(p).shape, prior_of_it, drawn, pairs=p.is_complex()))
        super().__init__(module, found)
        self.caller = Caller(module, _plain)
        for name, supplied in self._supplied.items():
            self.put.also(name, supplied.__dict__, "value")

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`Variables.constants`."""
        return constants_of(self.module, self._own)

    def means(self) -> dict[str, Tensor]:
        """See :meth:`Variables.means`."""
        return {name: parts_of(p.detach()) for name, p in (self._mean | self._fixed).items()}

    def log_stds(self, std: float, scale: bool) -> Tensor:
        """See :meth:`Variables.log_stds`; torch_blue's modules have their own."""
        plain = initial_log_stds(self.module, self._fixed, std, scale)
        return self.random.flatten(plain | self._log_std)

    def show(self, values: Mapping[str, Tensor], log_stds: Mapping[str, Tensor]) -> None:
        """See :meth:`Variables.show`."""
        for own, shown in (self._mean | self._fixed, values), (self._log_std, log_stds):
            for name in own.keys() & shown.keys():
                value = shown[name].detach()
                own[name].data = complex_of(value) if own[name].is_complex() else value


def _plain(y: Tensor) -> Tensor:
    """Return an output without the data that torch_blue attaches to it."""
    return y.as_subclass(torch.Tensor) if type(y) is VIReturn else y


def _normal_parameters(part: Any, variable: str, name: str) -> list[nn.Parameter]:
    wanted = ("mean", "log_std")
    distribution = part.variational_distribution[variable]
    if tuple(distribution.distribution_parameters) != wanted:
        raise UsageError(
            f"{name} has the variational distribution {type(distribution).__name__}; "
            f"the mean-field method needs MeanFieldNormal"
        )
    return [getattr(part, part.variational_parameter_name(variable, p)) for p in wanted]


def _prior(part: Any, variable: str) -> Prior:
    """Return the prior of a variable, as a log density if it is neither normal nor flat."""
    prior = part.prior[variable]
    if prior is None or _is(prior, UniformPrior):
        return None
    if _is(prior, MeanFieldNormal) and prior.mean.numel() == prior.log_std.numel() == 1:
        return float(prior.mean), float(prior.log_std)
    needed = tuple(prior._required_parameters)

    def log_prob(weights: Tensor, mean_now: Tensor) -> Tensor:
        if needed and needed != ("mean",):
            raise UsageError(
                f"the prior {type(prior).__name__} depends on {', '.join(needed)} of the "
                f"posterior, but only the mean is available"
            )
        found: Tensor = prior.prior_log_prob(weights, (mean_now,) if needed else ())
        return found

    return Density(type(prior).__name__, log_prob)


def _is(prior: Any, kind: type) -> bool:
    """Whether a prior uses the log density of a class, which a subclass may override."""
    densities = ("log_prob", "prior_log_prob")
    return isinstance(prior, kind) and all(
        getattr(type(prior), d) is getattr(kind, d) for d in densities
    )
