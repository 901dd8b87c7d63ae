"""Normalisation with sampled scales: normalise folded tensors, then scale each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.rules.elementwise import scaled
from hpcsamp.weights.folding.sampled import Sampled
from hpcsamp.weights.normalised import by_own_batch


def layer_norm(
    fold: Fold,
    x: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Any:
    """Layer normalisation over the last axes."""
    if not isinstance(x, Tensor):
        return NotImplemented
    return scaled(fold, F.layer_norm(x, normalized_shape, eps=eps), weight, bias)


def rms_norm(
    fold: Fold,
    x: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    eps: float | None = None,
) -> Any:
    """Root-mean-square normalisation over the last axes."""
    if not isinstance(x, Tensor):
        return NotImplemented
    return scaled(fold, F.rms_norm(x, normalized_shape, eps=eps), weight, None)


def group_norm(
    fold: Fold, x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """Group normalisation over groups of channels."""
    if not isinstance(x, Tensor):
        return NotImplemented
    y = F.group_norm(x, num_groups, eps=eps)
    return scaled(fold, y, of_channels(weight, y), of_channels(bias, y))


def batch_norm(
    fold: Fold,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Batch normalisation in evaluation mode, with the same statistics for all samples.

    Weights (weight standardisation) may also be normalised by their own statistics.
    """
    if type(x) is Sampled and training and running_mean is None and running_var is None:
        normed: Any = Sampled(by_own_batch(x.value, eps), fold)
        return scaled(fold, normed, of_channels(weight, x), of_channels(bias, x))
    own = isinstance(running_mean, Tensor) and isinstance(running_var, Tensor)
    if training or not own or not isinstance(x, Tensor):
        return NotImplemented
    y = F.batch_norm(x, running_mean, running_var, eps=eps)
    return scaled(fold, y, of_channels(weight, y), of_channels(bias, y))


def weight_norm(fold: Fold, v: Any, g: Any, dim: int = 0) -> Any:
    """Weight normalisation ``g v / |v|``, with norms over all axes but one."""
    if type(v) is not Sampled or type(g) is not Sampled:
        return NotImplemented
    others = [axis + 1 for axis in range(v.dim()) if axis != dim % v.dim()]
    norm = v.value.square().sum(others, keepdim=True).sqrt()
    return Sampled(v.value * (g.value / norm), fold)


def of_channels(value: Any, x: Tensor | Sampled) -> Any:
    """Reshape to ``(C, 1, ...)``, to scale the second axis."""
    ones = [1] * (x.dim() - 2)
    if type(value) is Sampled:
        return Sampled(value.value.view(*value.value.shape, *ones), value.fold)
    return None if value is None else value.view(-1, *ones)


RULES: dict[Any, Callable[..., Any]] = {
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.group_norm: group_norm,
    F.batch_norm: batch_norm,
    torch._weight_norm: weight_norm,
}
