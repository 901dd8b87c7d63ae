"""Layers whose weight has a factor for each input and for each output.

    y = ((x * r) W^T) * s + b,        a weight W * outer(s, r) of rank-1 factors

Linear layers and convolutions of a module get the factors ``r`` and ``s`` as further parameters, so
that methods can give each sample its own (Wen, Tran and Ba 2020, equation 5). ``W`` is shared: the
samples of a chunk are rows of one product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.weights.variables import deterministic_of

#: Names of the parameters ``r`` and ``s``.
FACTORS = ("factor_in", "factor_out")


class FactoredLinear(nn.Linear):
    """A linear layer with factors ``(in,)`` and ``(out,)``."""

    factor_in: Tensor
    factor_out: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(..., out)`` outputs of ``(..., in)`` inputs."""
        y = F.linear(input * self.factor_in, self.weight) * self.factor_out
        return y if self.bias is None else y + self.bias


class _Convolution(nn.modules.conv._ConvNd):
    """A convolution with factors ``(in, 1, ...)`` and ``(out, 1, ...)``."""

    factor_in: Tensor
    factor_out: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(B, out, ...)`` outputs of ``(B, in, ...)`` inputs."""
        y: Tensor = self._conv_forward(input * self.factor_in, self.weight, None)
        y = y * self.factor_out
        return y if self.bias is None else y + self.bias.view(self.factor_out.shape)


class FactoredConv1d(_Convolution, nn.Conv1d):
    """See :class:`FactoredLinear`."""


class FactoredConv2d(_Convolution, nn.Conv2d):
    """See :class:`FactoredLinear`."""


class FactoredConv3d(_Convolution, nn.Conv3d):
    """See :class:`FactoredLinear`."""


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FactoredLinear,
    nn.Conv1d: FactoredConv1d,
    nn.Conv2d: FactoredConv2d,
    nn.Conv3d: FactoredConv3d,
}


def add_factors(module: nn.Module, method: str) -> dict[str, nn.Module]:
    """Add factors with value 1 to the linear layers and convolutions of a module, in place.

    Three kinds of layers are left unchanged: subclasses of these layers, which may use their
    weights in another way (such as the output projection of attention), layers with tied or complex
    weights, and layers whose weight the module marks as deterministic.

    Parameters
    ----------
    module
        Any module; its outputs do not change, up to rounding.
    method
        Name of the method, for the message.

    Returns
    -------
    dict
        The layers with factors by name.

    Raises
    ------
    UsageError
        If there is no such layer.
    """
    marked = deterministic_of(module)
    owners = Counter(id(p) for part in module.modules() for p in part._parameters.values())
    found = {}
    for name, part in module.named_modules():
        kind = KINDS.get(type(part))
        if type(part) not in (*KINDS, *KINDS.values()):
            continue
        weight = part._parameters.get("weight")
        if weight is None or owners[id(weight)] > 1 or weight.is_complex():
            continue
        if (f"{name}.weight" if name else "weight") in marked:
            continue
        ends = [1] * (weight.dim() - 2)
        groups = getattr(part, "groups", 1)
        for key, count in zip(FACTORS, (weight.shape[1] * groups, len(weight)), strict=True):
            ones = torch.ones(count, *ends, dtype=weight.dtype, device=weight.device)
            part.register_parameter(key, nn.Parameter(ones))
        if kind is not None:
            part.__class__ = kind
        found[name] = part
    if not found:
        raise UsageError(
            f"method {method!r}: {type(module).__name__} has no nn.Linear or convolution with a "
            f"weight that is neither shared nor marked as deterministic; set method.name = "
            f"'ensemble', which needs no factors"
        )
    return found


def is_factor(name: str) -> bool:
    """Whether this is the name of a factor."""
    return name.rpartition(".")[2] in FACTORS


def without_factors(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the factors into the weights, ``W * outer(s, r)``; return values without factors."""
    found = {name: value for name, value in values.items() if not is_factor(name)}
    for name in filter(is_factor, values):
        path, _, key = name.rpartition(".")
        of = f"{path}.weight" if path else "weight"
        weight, factor = found[of], values[name]
        if key == FACTORS[1]:
            found[of] = weight * factor[:, None]
            continue
        inner, ends = weight.shape[1], weight.shape[2:]
        groups = len(factor) // inner
        rows = factor.reshape(groups, 1, inner, *[1] * len(ends))
        found[of] = (weight.unflatten(0, (groups, -1)) * rows).flatten(0, 1)
    return found
