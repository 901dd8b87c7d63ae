"""Apply functions of ``k`` samples to a tensor of a looped, vmapped or folded pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from hpcsamp.weights.folding.rules.elementwise import scaled
from hpcsamp.weights.folding.rules.norms import of_channels
from hpcsamp.weights.routing.forms import Folded
from hpcsamp.weights.routing.now import Now
from hpcsamp.weights.strategies.chunk import NotPossibleError


def of_samples(now: Now, function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Apply a function of ``(k, B, ...)`` to a tensor of a looped, vmapped or folded pass."""
    if is_batchedtensor(x):
        return _Vmapped.apply(x, function)
    if isinstance(now.form, Folded):
        fold = now.form.fold
        if not isinstance(x, Tensor):
            raise NotPossibleError("a normalisation of weights over the batch")
        rows = fold.rows(x)
        if rows is None or rows.axis:
            raise NotPossibleError("a normalisation whose first axis is not the batch")
        y = function(fold.out(x, rows))
        return y.flatten(0, 1) if rows.folded else y[0]
    return function(x[None])[0]


class _Vmapped(torch.autograd.Function):
    """A function of a tensor ``(k, B, ...)``, within ``torch.func.vmap``."""

    @staticmethod
    def forward(x: Any, function: Any) -> Any:
        """Apply the function to one sample."""
        return function(x[None])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing: autograd records the operations of :meth:`vmap`."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, function: Any) -> tuple[Tensor, int]:
        """Apply the function to all samples."""
        return function(x.movedim(in_dims[0], 0)), 0


def scaled_channels(now: Now, y: Any, weight: Any, bias: Any) -> Any:
    """Return ``y * weight + bias`` for channels."""
    if isinstance(now.form, Folded):
        return scaled(now.form.fold, y, of_channels(weight, y), of_channels(bias, y))
    ones = [1] * (y.dim() - 2)
    if weight is None:
        return y if bias is None else y + bias.reshape(-1, *ones)
    weight = weight.reshape(-1, *ones)
    return y * weight if bias is None else torch.addcmul(bias.reshape(-1, *ones), y, weight)
