"""Products with sampled weights: one batched product over samples; convolutions by groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.rules.elementwise import elementwise
from hpcsamp.weights.folding.sampled import Sampled


def linear(fold: Fold, x: Any, weight: Any, bias: Any = None) -> Any:
    """Return ``x W_s^T + b_s``."""
    if type(weight) is not Sampled:
        y = F.linear(x, weight) if isinstance(x, Tensor) else x @ weight.T
        return elementwise(fold, Tensor.add, (y, bias), {})
    if weight.dim() != 2:
        return NotImplemented
    return _product(fold, x, weight.value.mT, bias)


def matmul(fold: Fold, x: Any, weight: Any) -> Any:
    """Return ``x W_s`` with matrices ``W_s``."""
    if type(weight) is not Sampled or weight.dim() != 2:
        return NotImplemented
    return _product(fold, x, weight.value, None)


def _product(fold: Fold, x: Any, weight: Tensor, bias: Any) -> Any:
    """Multiply ``(..., in)`` by ``(k, in, out)``."""
    if not isinstance(x, Tensor) or x.dim() < 2:
        return NotImplemented
    rows, k, features = fold.rows(x), fold.samples, x.shape[-1]
    if rows is not None and rows.axis == x.dim() - 1:
        return NotImplemented
    if rows is None or not rows.folded:
        flat = x if x.dim() == 2 else x.reshape(-1, features)
        left = flat.expand(k, *flat.shape)
    elif rows.axis == 0:
        left = x.reshape(k, -1, features)
    else:
        left = fold.out(x, rows).reshape(k, -1, features)
    own = bias.value[:, None] if type(bias) is Sampled else bias
    y = left @ weight if own is None else torch.baddbmm(own, left, weight)
    if rows is None:
        return Sampled(y.view(k, *x.shape[:-1], -1), fold)
    if rows.axis == 0:
        return y.view(-1, *x.shape[1:-1], y.shape[-1])
    count = x.shape[1] // k if rows.folded else x.shape[1]
    return fold.into(y.view(k, x.shape[0], count, *x.shape[2:-1], -1), 1)


def _convolution(function: Any, transposed: bool) -> Callable[..., Any]:
    def rule(fold: Fold, x: Any, weight: Any, bias: Any = None, *others: Any, **named: Any) -> Any:
        """Convolve all samples as groups of channels; inputs without samples in one convolution."""
        own_order = "stride padding output_padding groups dilation"
        names = own_order if transposed else "stride padding dilation groups"
        named = dict(zip(names.split(), others, strict=False)) | named
        if type(weight) is not Sampled or not isinstance(x, Tensor):
            if type(bias) is Sampled and isinstance(x, Tensor):
                return _with_bias(fold, function(x, weight, None, **named), bias)
            return NotImplemented
        rows, k = fold.rows(x), fold.samples
        if rows is None or rows.axis or x.dim() != weight.dim():
            return NotImplemented
        groups = named.pop("groups", 1)
        flat, own = weight.value.flatten(0, 1), None
        if bias is not None:
            own = bias.value.flatten() if type(bias) is Sampled else bias.repeat(k)
        if not rows.folded and groups == 1 and not transposed:
            y = function(x, flat, own, **named)
        else:
            wide = fold.out(x, rows).expand(k, *[-1] * x.dim())
            wide = wide.transpose(0, 1).flatten(1, 2)
            y = function(wide, flat, own, groups=groups * k, **named)
        return y.unflatten(1, (k, -1)).transpose(0, 1).flatten(0, 1)

    return rule


def _with_bias(fold: Fold, y: Tensor, bias: Sampled) -> Any:
    wide = Sampled(bias.value.view(*bias.value.shape, *[1] * (y.dim() - 2)), fold)
    return elementwise(fold, Tensor.add, (y, wide), {})


RULES: dict[Any, Callable[..., Any]] = {
    F.linear: linear,
    torch.matmul: matmul,
    Tensor.matmul: matmul,
    Tensor.__matmul__: matmul,
    F.conv1d: _convolution(F.conv1d, False),
    F.conv2d: _convolution(F.conv2d, False),
    F.conv3d: _convolution(F.conv3d, False),
    F.conv_transpose1d: _convolution(F.conv_transpose1d, True),
    F.conv_transpose2d: _convolution(F.conv_transpose2d, True),
    F.conv_transpose3d: _convolution(F.conv_transpose3d, True),
}
