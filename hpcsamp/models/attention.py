"""Multi-head attention from the three projections of its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.layers import Split, gather

FEW = 32
"""Number of tokens up to which plain products are faster on CPUs than torch's fused kernel.

Including the backward pass, in float32 (torch 2.13): 17 tokens take 0.44 to 0.86 of its time, 32
tokens the same, 128 tokens 1.8 times as long.
"""


def attend(
    projections: Tensor, heads: int, mask: Tensor | None = None, tokens: Split | None = None
) -> Tensor:
    """Multi-head attention: for each query, the mean of the values weighted by matching keys.

    Parameters
    ----------
    projections
        ``(N, tokens, 3 * width)``: queries, keys and values side by side.
    heads
        Divides ``width``.
    mask
        Broadcastable to ``(N, heads, tokens, tokens)``: whether a token attends to another, or
        values to add to the attention scores.
    tokens
        Split of the tokens over the ranks of the spatial axis, if they are split: keys and values
        of all tokens are then gathered, in one exchange in each direction.

    Returns
    -------
    Tensor
        ``(N, tokens, width)``.
    """
    count, own, three = projections.shape
    width = three // 3
    q, k, v = projections.view(count, own, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    if tokens is not None and tokens.over.size > 1:
        k, v = gather(torch.stack([k, v]), -2, *tokens)
    if q.device.type == "cpu" and (k.shape[-2] <= FEW or q.dtype == torch.bfloat16):
        y = _by_products(q, k, v, mask)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.transpose(1, 2).reshape(count, own, width)


def _by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by its definition; torch's softmax sums in float32 for any input type.

    torch's fused kernel for CPUs has a backward pass that is 7 times slower than this in bfloat16
    (torch 2.13, 65 tokens of 64 values: 22.8 against 3.2 ms including the forward pass; in float32
    it takes 6.4). This keeps ``(N, heads, tokens, tokens)`` weights in bfloat16, the kernel does
    not.
    """
    fit = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if mask is not None and mask.dtype == torch.bool:
        fit = fit.masked_fill(~mask, -math.inf)
    elif mask is not None:
        fit = fit + mask.to(fit.dtype)
    return fit.softmax(-1) @ v
