"""How a flat vector of weights gets into a module: plain ``nn.Module`` and torch_blue ``VIModule``.

An adapter lists the random variables of a module as slots, evaluates the module with given views,
and keeps the module's own parameters as views of the flat storage, so that the module always shows
what was learnt.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from hpcsamp.errors import UsageError


@dataclass(frozen=True)
class Slot:
    """One random variable.

    Attributes
    ----------
    name
        Qualified name in the module, e.g. ``encoder.0.weight``.
    mean, log_std
        Initial values, of the variable's shape.
    prior
        ``(mean, log std)`` of the normal prior, or None for a flat one.
    """

    name: str
    mean: Tensor
    log_std: Tensor
    prior: tuple[float, float] | None

    @property
    def size(self) -> int:
        """Number of scalar weights."""
        return self.mean.numel()


class Adapter(ABC):
    """A module whose random variables are supplied from outside."""

    slots: list[Slot]
    fixed: dict[str, nn.Parameter]  # parameters that stay deterministic
    trained: set[str]  # names of all parameters of the module that show what is trained

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def constants(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers by name, not copied."""
        return constants_of(self.module, self.trained)

    @abstractmethod
    def call(self, weights: Sequence[Tensor], fixed: dict[str, Tensor], x: Tensor) -> Tensor:
        """Evaluate with one tensor per slot. Works under ``torch.func.vmap``."""

    @abstractmethod
    def link(self, means: Sequence[Tensor], log_stds: Sequence[Tensor]) -> None:
        """Let the module's own parameters share memory with these views."""


class PlainAdapter(Adapter):
    """Any ``nn.Module``: its parameters become random variables.

    Parameters
    ----------
    prior
        ``(mean, std)`` of the normal prior of every weight.
    initial_std
        Initial posterior standard deviation.
    scale_std
        Multiply ``initial_std`` by ``1 / sqrt(fan in)`` of the layer, as the paper does. (A bias
        takes the fan in of its layer's weight.)
    bayesian
        Says by name which parameters are random; the others are trained as usual. None: all but
        those of normalisation layers.
    """

    def __init__(
        self,
        module: nn.Module,
        prior: tuple[float, float],
        initial_std: float,
        scale_std: bool,
        bayesian: Callable[[str], bool] | None,
    ) -> None:
        super().__init__(module)
        check_parameters(module)
        self.slots, self.fixed = [], {}
        self._names: list[str] = []
        fan_in, norms = _fan_in(module), _norm_parameters(module)
        marked = deterministic_of(module)
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            random = bayesian(name) if bayesian else name not in norms
            if name in marked or not random:
                self.fixed[name] = p
                continue
            std = initial_std / (math.sqrt(fan_in[name]) if scale_std else 1.0)
            self.slots.append(
                Slot(
                    name,
                    p.detach().clone(),
                    torch.full_like(p, math.log(std)),
                    (prior[0], math.log(prior[1])),
                )
            )
            self._names.append(name)
        self.trained = {*self._names, *self.fixed}

    def call(self, weights: Sequence[Tensor], fixed: dict[str, Tensor], x: Tensor) -> Tensor:
        """Evaluate with one tensor per slot."""
        parameters = dict(zip(self._names, weights, strict=True)) | fixed
        return functional_call(self.module, parameters, (x,))

    def link(self, means: Sequence[Tensor], log_stds: Sequence[Tensor]) -> None:
        """The module's parameters show the posterior means."""
        owned = dict(self.module.named_parameters())
        for name, mean in zip(self._names, means, strict=True):
            owned[name].data = mean.detach()


class TorchBlueAdapter(Adapter):
    """A torch_blue ``VIModule``: its variables, priors and initial values.

    torch_blue would draw by itself, unseeded and anew at every access; each variable's distribution
    is replaced by one that hands out what it was given.
    """

    def __init__(self, module: nn.Module) -> None:
        from torch_blue.vi import VILinear, VIModule

        super().__init__(module)
        check_parameters(module)
        self.slots = []
        self._supplied: list[Any] = []
        self._owners: list[tuple[nn.Module, str, str]] = []
        owned: set[int] = set()
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
                mean_name, std_name = _normal_parameters(part, variable, name)
                mean, log_std = getattr(part, mean_name), getattr(part, std_name)
                if not (mean.requires_grad and log_std.requires_grad):
                    raise UsageError(
                        f"{name} is a random variable whose distribution is frozen (requires_grad "
                        f"is false); let it be trained, or take a plain layer with a frozen "
                        f"parameter in its place"
                    )
                owned |= {id(mean), id(log_std)}
                self.slots.append(
                    Slot(
                        name,
                        mean.detach().clone(),
                        log_std.detach().clone(),
                        _normal_prior(part.prior[variable], name),
                    )
                )
                supplied = _supplied_distribution()
                part.variational_distribution[variable] = supplied
                self._supplied.append(supplied)
                self._owners.append((part, mean_name, std_name))
        named = dict(module.named_parameters())
        self.fixed = {n: p for n, p in named.items() if id(p) not in owned and p.requires_grad}
        self.trained = {n for n, p in named.items() if id(p) in owned or n in self.fixed}

    def call(self, weights: Sequence[Tensor], fixed: dict[str, Tensor], x: Tensor) -> Tensor:
        """Evaluate with one tensor per slot."""
        for supplied, weight in zip(self._supplied, weights, strict=True):
            supplied.value = weight
        try:
            return functional_call(self.module, fixed, (x,)).as_subclass(torch.Tensor)
        finally:
            for supplied in self._supplied:
                supplied.value = None

    def link(self, means: Sequence[Tensor], log_stds: Sequence[Tensor]) -> None:
        """The module's variational parameters show what was learnt."""
        for (part, mean_name, std_name), mean, log_std in zip(
            self._owners, means, log_stds, strict=True
        ):
            getattr(part, mean_name).data = mean.detach()
            getattr(part, std_name).data = log_std.detach()


def _supplied_distribution() -> Any:
    from torch_blue.vi.distributions import MeanFieldNormal

    class Supplied(MeanFieldNormal):
        """Hands out the weights of the sample that is being evaluated."""

        value: Tensor | None = None

        def sample(self, parameters: Any) -> Tensor:
            if self.value is None:
                raise RuntimeError(
                    "this module belongs to an hpcsamp method now: call the method, "
                    "method(x, samples=range(S)), not the module"
                )
            return self.value

    return Supplied()


def _normal_parameters(part: Any, variable: str, name: str) -> tuple[str, str]:
    wanted = ("mean", "log_std")
    distribution = part.variational_distribution[variable]
    if tuple(distribution.distribution_parameters) != wanted:
        raise UsageError(
            f"{name} has the variational distribution {type(distribution).__name__}; "
            f"the mean-field method needs MeanFieldNormal"
        )
    mean, log_std = (part.variational_parameter_name(variable, p) for p in wanted)
    return mean, log_std


def _normal_prior(prior: Any, name: str) -> tuple[float, float] | None:
    from torch_blue.vi.distributions import MeanFieldNormal, UniformPrior

    if isinstance(prior, UniformPrior):
        return None
    if isinstance(prior, MeanFieldNormal):
        return float(prior.mean), float(prior.log_std)
    raise UsageError(
        f"{name} has the prior {type(prior).__name__}; the analytic KL knows MeanFieldNormal and "
        f"UniformPrior"
    )


def _fan_in(module: nn.Module) -> dict[str, int]:
    """Inputs per output of each parameter's layer; 1 for a layer with vectors only (a norm)."""
    result = {}
    for path, part in module.named_modules():
        own = dict(part.named_parameters(recurse=False))
        wide = (math.prod(p.shape[1:]) for p in own.values() if p.dim() > 1)
        widest = max(1, *wide, 1)
        for name in own:
            result[f"{path}.{name}" if path else name] = widest
    return result


def _norm_parameters(module: nn.Module) -> set[str]:
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    return {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if isinstance(part, kinds)
        for name, _ in part.named_parameters(recurse=False)
    }


def deterministic_of(module: nn.Module) -> set[str]:
    """Names of the parameters that a part of the module marks as having no uncertainty.

    Such a part lists the names in an attribute ``deterministic``. Methods optimise these parameters
    with the others, but give them no prior and do not draw them.
    """
    return {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name in getattr(part, "deterministic", ())
    }


def constants_of(module: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """Parameters and buffers of a module by name, not copied, but for those that are trained."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: value.detach() for name, value in named if name not in trained}


def check_parameters(module: nn.Module) -> None:
    """Refuse parameters that cannot lie in one flat vector of numbers.

    Raises
    ------
    UsageError
        Naming the parameter.
    """
    for name, p in itertools.chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(p):
            raise UsageError(
                f"{name} of {type(module).__name__} has no shape yet; evaluate the lazy module "
                f"with one batch before it is given to a method"
            )
        if p.requires_grad and p.is_complex():
            raise UsageError(
                f"{name} of {type(module).__name__} is a complex parameter; make it a real one "
                f"with a last axis of 2, and use torch.view_as_complex(self.{name}) in the forward "
                f"pass"
            )
