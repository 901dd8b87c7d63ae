"""Attention of many samples within ``torch.func.vmap``, fused.

vmap has no rule for scaled-dot-product attention on CPUs: it would loop over samples, forwards and
backwards. Here attention goes through a function whose own rule folds the samples into the batch
axis of one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.attention import multi_head_attention
from hpcsamp.weights.routing.now import Now, Route
from hpcsamp.weights.strategies.chunk import NotPossibleError


def multi_head(now: Now, *args: Any, **named: Any) -> Any:
    """Multi-head attention, which would call attention behind the mode."""
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
        """Attention of one sample."""
        return F.scaled_dot_product_attention(q, k, v, mask, *others, **dict(named))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: autograd records what :meth:`vmap` does."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, q: Any, k: Any, v: Any, mask: Any, others: Any, named: Any
    ) -> tuple[Tensor, int]:
        """One call with samples in the batch axis."""
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
    """At most four axes, as the fused kernels want them."""
    return t.flatten(0, t.dim() - 4) if t.dim() > 4 else t


def _same_for_all(mask: Tensor) -> bool:
    """Whether a mask fits any number of rows: it has no axis of the batch, or one of length 1."""
    return mask.dim() <= 2 or all(n == 1 for n in mask.shape[:-3])


OF_VMAP: dict[Any, Route] = {
    F.scaled_dot_product_attention: dot_product,
    F.multi_head_attention_forward: multi_head,
}
