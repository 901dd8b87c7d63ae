"""Attention with dropout, and attention of many samples within ``torch.func.vmap``.

vmap has no rule for scaled-dot-product attention on CPUs: it would loop over samples in both
passes. Here attention is computed by a function whose own rule folds the samples into the batch
axis of one call. With dropout there is no fused kernel: weights are masked as in torch's plain
implementation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.attention import multi_head_attention
from hpcsamp.weights.routing.dropout import dropout
from hpcsamp.weights.routing.now import Now, Route
from hpcsamp.weights.strategies.chunk import NotPossibleError


def dropped_dot_product(
    now: Now,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled-dot-product attention whose weights are dropped, in plain operations."""
    if dropout_p == 0:
        return NotImplemented
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(repeats, -3) for t in (key, value))
    fit = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        later = torch.ones(fit.shape[-2:], dtype=torch.bool, device=fit.device).triu(1)
        fit = fit.masked_fill(later, -math.inf)
    if attn_mask is not None:
        fit = (
            torch.where(attn_mask, fit, -math.inf)
            if attn_mask.dtype == torch.bool
            else fit + attn_mask
        )
    return dropout(now, fit.softmax(-1), dropout_p) @ value


def dropped_multi_head(now: Now, *args: Any, **named: Any) -> Any:
    """Multi-head attention with dropout."""
    rate = named["dropout_p"] if "dropout_p" in named else args[10]
    training = named["training"] if "training" in named else args[13] if len(args) > 13 else True
    if rate == 0 or not training:
        return NotImplemented
    with now.again():
        return multi_head_attention(*args, **named)


def multi_head(now: Now, *args: Any, **named: Any) -> Any:
    """Multi-head attention; torch's own function would call attention without routing the call."""
    with now.again():
        return multi_head_attention(*args, **named)


def dot_product(
    now: Now,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    *others: Any,
    **named: Any,
) -> Tensor:
    """Scaled-dot-product attention of all samples in one call."""
    if not any(is_batchedtensor(t) for t in (q, k, v, attn_mask) if t is not None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask, *others, **named)
    y: Tensor = _Attention.apply(q, k, v, attn_mask, others, tuple(named.items()))
    return y


class _Attention(torch.autograd.Function):
    """Scaled-dot-product attention whose rule for vmap folds samples into the batch."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, mask: Any, others: Any, named: Any) -> Any:
        """Compute the attention of one sample."""
        return F.scaled_dot_product_attention(q, k, v, mask, *others, **dict(named))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing: autograd records the operations of :meth:`vmap`."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, q: Any, k: Any, v: Any, mask: Any, others: Any, named: Any
    ) -> tuple[Tensor, int]:
        """Make one call with samples in the batch axis."""
        count = info.batch_size
        parts = [_samples_first(t, d, count) for t, d in zip((q, k, v), in_dims, strict=False)]
        lead = parts[0].shape[:-2]  # k, then the axes of the batch and of the heads
        if any(t.shape[:-2] != lead for t in parts):
            raise NotPossibleError(
                "scaled_dot_product_attention whose queries and keys have different batch axes"
            )
        if mask is not None and (in_dims[3] is not None or not _same_for_all(mask)):
            mask = _samples_first(mask, in_dims[3], count)
            ones = [1] * (parts[0].dim() - mask.dim())
            mask = mask.view(count, *ones, *mask.shape[1:]).expand(*lead, *mask.shape[-2:])
            mask = _folded(mask)
        q, k, v = map(_folded, parts)
        y: Tensor = F.scaled_dot_product_attention(q, k, v, mask, *others, **dict(named))
        return y.reshape(*lead, *y.shape[-2:]), 0


def _samples_first(t: Tensor, axis: int | None, count: int) -> Tensor:
    return t.expand(count, *t.shape) if axis is None else t.movedim(axis, 0)


def _folded(t: Tensor) -> Tensor:
    """Reshape to at most four axes, as the fused kernels require."""
    return t.flatten(0, t.dim() - 4) if t.dim() > 4 else t


def _same_for_all(mask: Tensor) -> bool:
    """Whether a mask broadcasts over the batch: its batch axis is missing or has length 1."""
    return mask.dim() <= 2 or all(n == 1 for n in mask.shape[:-3])


OF_VMAP: dict[Any, Route] = {
    F.scaled_dot_product_attention: dot_product,
    F.multi_head_attention_forward: multi_head,
}

ROUTES: dict[Any, Route] = {
    F.scaled_dot_product_attention: dropped_dot_product,
    F.multi_head_attention_forward: dropped_multi_head,
}
