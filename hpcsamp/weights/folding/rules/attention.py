"""Attention with sampled projections, masks or queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.weights.attention import multi_head_attention
from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.sampled import Sampled


def multi_head(fold: Fold, *args: Any, **named: Any) -> Any:
    """Multi-head attention, whose products have rules for sampled projections."""
    return multi_head_attention(*args, **named)


def dot_product(fold: Fold, *args: Any, **named: Any) -> Any:
    """Scaled-dot-product attention; sampled arguments are repeated for each item."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    named = dict(zip(names, args, strict=False)) | named
    inputs = [named[name] for name in names[:3]]
    found = [t.shape[0] for t in inputs if isinstance(t, Tensor) and _folded(fold, t)]
    if not found:
        return NotImplemented
    axes = max(t.dim() for t in inputs)
    for name, value in named.items():
        if type(value) is Sampled:
            named[name] = _repeated(value, found[0], axes)
    return F.scaled_dot_product_attention(**named)


def _folded(fold: Fold, x: Tensor) -> bool:
    rows = fold.rows(x)
    return rows is not None and rows == (0, True)


def _repeated(value: Sampled, rows: int, axes: int) -> Tensor:
    """Return ``(rows, ...)`` with a sampled value in each of its sample's rows."""
    whole = value.value
    k, short = len(whole), axes - value.dim()
    whole = whole.view(k, *[1] * short, *value.shape)
    return whole.expand(k, rows // k, *whole.shape[2:]).flatten(0, 1)


RULES: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: multi_head,
    F.scaled_dot_product_attention: dot_product,
}
