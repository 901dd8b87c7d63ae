"""Multi-head attention in plain operations, each of which supports a samples axis.

``torch.nn.functional.multi_head_attention_forward`` flattens tokens and items into one axis before
its last projection, tokens first, so that samples that are folded into the items cannot be
separated. The function of this module keeps the axes separate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.strategies.chunk import NotPossibleError


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention with the arguments of torch's function.

    Returns
    -------
    tuple
        ``(L, N, E)`` outputs and, if ``need_weights``, the attention weights ``(N, L, S)``, or
        ``(N, heads, L, S)`` unless they are averaged.

    Raises
    ------
    NotPossibleError
        If there are static keys, or the inputs have no batch axis.
    """
    if static_k is not None or static_v is not None or query.dim() != 3:
        raise NotPossibleError(
            "multi_head_attention_forward with static keys or without a batch axis"
        )
    targets, width = query.shape[0], query.shape[2]
    rate = dropout_p if training else 0.0
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        inputs = (query, key, value)
        projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    elif query is key and key is value:
        projected = list(F.linear(query, in_proj_weight, in_proj_bias).chunk(3, dim=-1))
    else:
        weights = in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        inputs = (query, key, value)
        projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    sources = len(key)
    for more in ((bias_k, bias_v), (0.0, 0.0) if add_zero_attn else (None, None)):
        if more[0] is not None:
            zeros = projected[0].new_zeros(1, *projected[0].shape[1:])
            projected[1:] = (
                torch.cat([t, zeros + own]) for t, own in zip(projected[1:], more, strict=True)
            )
            sources += 1
    q, k, v = (
        t.reshape(t.shape[0], t.shape[1], num_heads, width // num_heads).permute(1, 2, 0, 3)
        for t in projected
    )
    if is_causal and (key_padding_mask is not None or need_weights):
        is_causal = False  # the accompanying mask already contains it
    elif is_causal:
        attn_mask = None
    attn_mask, key_padding_mask = (
        m if m is None or sources == len(key) else F.pad(m, (0, sources - len(key)))
        for m in (attn_mask, key_padding_mask)
    )
    mask = _mask(attn_mask, key_padding_mask, q, sources)
    found: Tensor | None = None
    if need_weights:
        fit = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        found = (fit if mask is None else fit + mask).softmax(-1)
        found = F.dropout(found, rate) if rate else found
        y = found @ v
        found = found.mean(1) if average_attn_weights else found
    else:
        y = F.scaled_dot_product_attention(q, k, v, mask, rate, is_causal)
    y = y.permute(2, 0, 1, 3).reshape(targets, y.shape[0], width)
    return F.linear(y, out_proj_weight, out_proj_bias), found


def _mask(attention: Any, padding: Tensor | None, q: Tensor, sources: int) -> Any:
    """Additive mask, broadcastable to ``(N, heads, L, S)``; None if there is no mask."""
    total = None
    if attention is not None:
        total = _numbers(attention, q)
        if total.dim() == 3:
            total = total.view(-1, q.shape[1], *total.shape[-2:])
    if padding is not None:
        hidden = _numbers(padding, q).view(-1, 1, 1, sources)
        total = hidden if total is None else total + hidden
    return total


def _numbers(mask: Any, like: Tensor) -> Any:
    """Replace a boolean mask by minus infinity where it hides something."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
