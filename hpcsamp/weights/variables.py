"""Random variables, deterministic trainable parameters, and constants of a module."""

from __future__ import annotations

import itertools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hpcsamp.errors import UsageError
from hpcsamp.weights.calling import Caller
from hpcsamp.weights.complex_parts import complex_of, parts_of
from hpcsamp.weights.layout import Layout, Prior, Variable
from hpcsamp.weights.pieces import parts_in
from hpcsamp.weights.put import Put


class Variables(ABC):
    """The trained tensors and constants of a module, and a way to replace their values.

    Parameters
    ----------
    module
        The module.
    variables
        All its trained tensors, in the module's order.

    Attributes
    ----------
    put
        Puts values into the module, see :func:`hpcsamp.weights.evaluate`.
    caller
        Calls the module.
    trained, random, deterministic
        Layouts of all trained tensors, of those with uncertainty, and of the others.

    Raises
    ------
    UsageError
        If the module has no trainable weights, or parameters that cannot lie in one flat vector.
    """

    def __init__(self, module: nn.Module, variables: list[Variable]) -> None:
        if not variables:
            raise UsageError(f"{type(module).__name__} has no trainable weights")
        self.module = module
        self.put = Put(module)
        self.caller = Caller(module)
        self.trained = Layout(variables, rows=True)
        self.random = Layout(v for v in variables if v.random)
        self.deterministic = Layout(v for v in variables if not v.random)

    @abstractmethod
    def constants(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers by name, not copied."""

    @abstractmethod
    def means(self) -> dict[str, Tensor]:
        """Current weights of the module by name; for a random variable, its mean.

        Complex parameters are returned as ``(*shape, 2)`` parts, which are separate variables.
        """

    @abstractmethod
    def log_stds(self, std: float, scale: bool) -> Tensor:
        """Return ``(n,)`` initial log standard deviations of the random variables.

        Parameters
        ----------
        std
            Standard deviation for a plain module.
        scale
            Multiply ``std`` by ``1 / sqrt(fan in)`` of the layer, as in the paper. (A bias has the
            fan in of its layer's weight.)
        """

    def call(self, x: Tensor) -> Tensor:
        """Evaluate the module's current state, see :class:`~hpcsamp.weights.calling.Caller`."""
        return self.caller(x)

    @abstractmethod
    def show(self, values: Mapping[str, Tensor], log_stds: Mapping[str, Tensor]) -> None:
        """Make the module's own parameters views of values, by name."""


class PlainVariables(Variables):
    """Variables of any ``nn.Module``: its parameters, complex ones as real and imaginary parts.

    Parameters
    ----------
    module
        The module.
    prior
        Prior of every random weight, or of each parameter by its name.
    random
        Selects random parameters by name; None: all that the module does not mark as
        deterministic.
    """

    def __init__(
        self,
        module: nn.Module,
        prior: Prior | Callable[[str], Prior] = None,
        random: Callable[[str], bool] | None = None,
    ) -> None:
        check_parameters(module)
        check_plain(module)
        marked, parts = deterministic_of(module), parts_in(module)
        self._own = {n: p for n, p in module.named_parameters() if p.requires_grad}
        found = [
            Variable(
                n,
                parts_of(p).shape,
                prior(n) if callable(prior) else prior,
                n not in marked and (random is None or random(n)),
                pairs=p.is_complex(),
                part=parts.get(n),
            )
            for n, p in self._own.items()
        ]
        super().__init__(module, found)

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`Variables.constants`."""
        return constants_of(self.module, self._own)

    def means(self) -> dict[str, Tensor]:
        """See :meth:`Variables.means`."""
        return {name: parts_of(p.detach()) for name, p in self._own.items()}

    def log_stds(self, std: float, scale: bool) -> Tensor:
        """See :meth:`Variables.log_stds`."""
        own = [parts_of(self._own[name].detach()) for name in self.random.names]
        kind = reduce(torch.promote_types, (p.dtype for p in own))
        flat = own[0].new_zeros(self.random.size, dtype=kind)
        values = initial_log_stds(self.module, self._own, std, scale)
        for name, x in self.random.named(flat).items():
            x.copy_(values[name])
        return flat

    def show(self, values: Mapping[str, Tensor], log_stds: Mapping[str, Tensor]) -> None:
        """See :meth:`Variables.show`; a plain module does not show ``log_stds``."""
        own = dict(self.module.named_parameters())
        for name, value in values.items():
            shown = value.detach()
            own[name].data = complex_of(shown) if own[name].is_complex() else shown


def variables_of(
    module: nn.Module,
    prior: Prior | Callable[[str], Prior],
    random: Callable[[str], bool] | None = None,
) -> Variables:
    """Return the variables of a plain module, or of one that contains torch_blue's ``VIModule``.

    Parameters
    ----------
    module, prior, random
        As in :class:`PlainVariables`, but by default all parameters are random except those of
        normalisation layers, as in torch_blue. A ``VIModule`` defines its own variables; plain
        parameters next to it are random only if ``random`` selects them.
    """
    if _torch_blue_parts(module):
        from hpcsamp.weights.torch_blue import TorchBlueVariables

        return TorchBlueVariables(module, prior, random)
    norms = _norm_parameters(module)
    return PlainVariables(module, prior, random or (lambda name: name not in norms))


def check_plain(module: nn.Module) -> None:
    """Refuse torch_blue's modules, which draw weights, in methods that define samples differently.

    Raises
    ------
    UsageError
        If there is such a module; the message names it, and the methods that support it.
    """
    parts = _torch_blue_parts(module)
    drawing = [(n, m) for n, m in parts if m.random_variables]  # other modules only contain them
    for name, part in (drawing or parts)[:1]:
        shown = f"{name}, a {type(part).__name__}" if name else f"{type(part).__name__}, a module"
        raise UsageError(
            f"{shown} of torch_blue, draws the weights of samples itself, but this method draws "
            f"samples of its own: use method 'mean_field' (hs.MeanField), which supports it with "
            f"its distributions and priors, or replace it by a plain layer of torch.nn"
        )


def _torch_blue_parts(module: nn.Module) -> list[tuple[str, Any]]:
    torch_blue = sys.modules.get("torch_blue.vi")  # if not imported, there are no such modules
    if torch_blue is None:
        return []
    return [(n, m) for n, m in module.named_modules() if isinstance(m, torch_blue.VIModule)]


def initial_log_stds(
    module: nn.Module, parameters: Mapping[str, Tensor], std: float, scale: bool
) -> dict[str, Tensor]:
    """Initial log standard deviations, see :meth:`Variables.log_stds`.

    Each is a scalar, expanded to the shape of its variable.
    """
    inputs = fan_in(module) if scale else {}
    found = {}
    for name, p in parameters.items():
        like = parts_of(p.detach())
        value = math.log(std / math.sqrt(inputs.get(name, 1)))
        found[name] = like.new_full((), value).expand(like.shape)
    return found


def fan_in(module: nn.Module) -> dict[str, int]:
    """Number of inputs per output of each parameter's layer; 1 if all its parameters are vectors.

    A layer whose weights are not ``(outputs, inputs, ...)``, or are a part of such a tensor, has
    this number in an attribute ``inputs_per_output``.
    """
    result = {}
    for path, part in module.named_modules():
        own = dict(part.named_parameters(recurse=False))
        widest = getattr(part, "inputs_per_output", None)
        if not isinstance(widest, int):
            widest = max([1, *(math.prod(p.shape[1:]) for p in own.values() if p.dim() > 1)])
        for name in own:
            result[f"{path}.{name}" if path else name] = widest
    return result


def _norm_parameters(module: nn.Module) -> set[str]:
    """Parameter names of normalisation layers: torch's, and others with ``normalises = True``."""
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    return {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if isinstance(part, kinds) or getattr(part, "normalises", False) is True
        for name, _ in part.named_parameters(recurse=False)
    }


def deterministic_of(module: nn.Module) -> set[str]:
    """Names of the parameters that a submodule marks as having no uncertainty.

    Such a submodule lists the names in an attribute ``deterministic``. Methods optimise these
    parameters with the others, but give them no prior and do not draw them.
    """
    return {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name in getattr(part, "deterministic", ())
    }


def constants_of(module: nn.Module, trained: Mapping[str, object]) -> dict[str, Tensor]:
    """Parameters and buffers of a module by name, not copied, except those that are trained."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: value.detach() for name, value in named if name not in trained}


def check_parameters(module: nn.Module) -> None:
    """Refuse parameters that cannot lie in one flat vector.

    Raises
    ------
    UsageError
        If there is such a parameter; the message names it.
    """
    for path, part in module.named_modules():
        if not isinstance(part._parameters, dict):
            raise UsageError(
                f"{path or 'the module'}, a {type(part).__name__}, is compiled, so that the weights"
                f" of a sample cannot be put in place of its own; pass the module before compiling"
            )
    for name, p in itertools.chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(p):
            path, _, key = name.rpartition(".")
            layer = type(module.get_submodule(path)).__name__
            raise UsageError(
                f"{path or 'the module'}, a {layer}, has no shape yet ({key}), but a method needs "
                f"the weights from the start; call the network once on a batch, network(x), before "
                f"passing it to a method (hs.fit does so itself)"
            )
