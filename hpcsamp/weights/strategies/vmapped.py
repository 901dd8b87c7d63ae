"""``torch.func.vmap`` over samples, with attention that stays fused.

vmap has no rule for scaled-dot-product attention on CPUs: it would loop over samples, forwards and
backwards. Here attention within the pass goes through a function whose own rule folds the samples
into the batch axis of one call. Embeddings with a padding row get a wrong gradient from vmap where
ids differ between samples (torch 2.13); here that row is left out of the graph instead. Any other
operation without a rule makes the pass impossible.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from hpcsamp.weights.attention import multi_head_attention
from hpcsamp.weights.embedding import frozen_row
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError
from hpcsamp.weights.vectorised import vectorised


def run(chunk: Chunk) -> Tensor:
    """``(k, B, ...)`` outputs by one vectorised pass.

    Raises
    ------
    NotPossibleError
        Naming the operation that vmap would loop over.
    """

    def one(sampled: dict[str, Tensor], x: Tensor) -> Tensor:
        with chunk.put(chunk.shared), chunk.put(sampled), _Routed():
            return chunk.call(x)

    axes = (0, 0 if chunk.stacked else None)
    if not chunk.sampled and not chunk.stacked:  # nothing tells the samples apart
        alike = one({}, chunk.x)
        return alike.expand(chunk.samples, *alike.shape)
    y: Tensor = vectorised(one, axes, dict(chunk.sampled), chunk.x)
    return y


class _Routed(TorchFunctionMode):
    """Sends to another function what vmap has no good rule for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:  # it would call attention behind this mode
            with self:
                return multi_head_attention(*args, **kwargs)
        if func is F.embedding:
            return _embedding(*args, **kwargs)
        return func(*args, **kwargs)


def _embedding(
    ids: Tensor, weight: Tensor, padding_idx: int | None = None, *others: Any, **named: Any
) -> Tensor:
    if padding_idx is not None:
        weight, padding_idx = frozen_row(weight, padding_idx), None
    return F.embedding(ids, weight, padding_idx, *others, **named)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *others: Any, **named: Any
) -> Tensor:
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
