"""Attention by products, used in bfloat16 on CPUs, agrees with torch's own."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from hpcsamp.models import attention

HEADS, TOKENS, WIDTH = 3, 7, 12


def masks():
    sees = torch.rand(4, 1, TOKENS, TOKENS) < 0.6
    sees |= torch.eye(TOKENS, dtype=torch.bool)  # who sees nobody gets NaN in either
    added = torch.randn(4, HEADS, TOKENS, TOKENS, dtype=torch.float64)
    return {"none": None, "bool": sees, "numbers": added}


@pytest.mark.parametrize("kind", ["none", "bool", "numbers"])
def test_products_are_torchs_attention(kind):
    torch.manual_seed(0)
    mask = masks()[kind]
    x = torch.randn(4, TOKENS, 3 * WIDTH, dtype=torch.float64, requires_grad=True)
    want = attention.attend(x, HEADS, mask)
    q, k, v = x.view(4, TOKENS, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    got = attention._by_products(q, k, v, mask).transpose(1, 2).reshape(4, TOKENS, WIDTH)
    direction = torch.randn_like(want)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    (slope,) = torch.autograd.grad(want, x, direction)
    torch.testing.assert_close(
        torch.autograd.grad(got, x, direction)[0], slope, rtol=1e-12, atol=1e-13
    )


def test_bfloat16_is_close_to_float32(monkeypatch):
    torch.manual_seed(1)
    x = torch.randn(4, TOKENS, 3 * WIDTH)
    fused = F.scaled_dot_product_attention

    def refused(q, *args, **kwargs):
        assert q.dtype != torch.bfloat16
        return fused(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", refused)
    half = attention.attend(x.bfloat16(), HEADS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attention.attend(x, HEADS), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ["none", "bool", "numbers"])
def test_no_weights_are_kept_in_float32(kind):
    """They are the largest of all that the backward pass needs."""
    mask = masks()[kind]
    x = torch.randn(4, TOKENS, 3 * WIDTH, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        attention.attend(x, HEADS, mask)
    weights = [t for t in kept if t.shape[-2:] == (TOKENS, TOKENS)]
    assert weights
    assert {t.dtype for t in weights} <= {torch.bfloat16, torch.bool}
