"""Chunks of samples evaluated by every strategy, against one sample after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpcsamp.errors import UsageError
from hpcsamp.models import ViT
from hpcsamp.weights import Put, evaluate, refusal

SAMPLES = 5


class Attends(nn.Module):
    """Self-attention, with the batch first or second."""

    def __init__(self, batch_first: bool, weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.weights = weights

    def forward(self, x):
        x = x if self.attention.batch_first else x.transpose(0, 1)
        y = self.attention(x, x, x, need_weights=self.weights)[0]
        return y if self.attention.batch_first else y.transpose(0, 1)


def vit():
    return ViT((1, 8, 8), 10, patch=2, width=16, heads=2, layers=2, hidden=32)


MODULES = {
    "dense": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), (3,)),
    "vit": (vit, (1, 8, 8)),
    "attention": (lambda: Attends(True), (5, 8)),
    "attention, tokens first": (lambda: Attends(False), (5, 8)),
    "attention with its weights": (lambda: Attends(True, True), (5, 8)),
}


def chunk(module, shape, stacked=False, samples=SAMPLES, items=6):
    """Values with a samples axis, and inputs, all with gradients."""
    generator = torch.Generator().manual_seed(1)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    sampled = {
        name: (p.detach() + 0.3 * normal(samples, *p.shape)).requires_grad_()
        for name, p in module.named_parameters()
    }
    lead = (samples, items) if stacked else (items,)
    return sampled, normal(*lead, *shape).requires_grad_()


def outcome(module, sampled, shared, x, strategy, stacked=False):
    """Outputs and gradients of a weighted sum of them."""
    arguments = (Put(module), module, sampled, shared, x)
    named = {"samples": SAMPLES, "stacked": stacked, "strategy": strategy}
    assert refusal(*arguments, **named) is None
    y = evaluate(*arguments, **named)
    weight = torch.arange(y.numel(), dtype=y.dtype).cos().view_as(y)
    leaves = [*sampled.values(), *(v for v in shared.values() if v.requires_grad), x]
    return y, torch.autograd.grad((y * weight).sum(), leaves)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("strategy", ["vmap"])
@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_gradients_are_those_of_a_loop(name, strategy, stacked):
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make().double()
    sampled, x = chunk(module, shape, stacked)
    truth, expected = outcome(module, sampled, {}, x, "loop", stacked)
    y, gradients = outcome(module, sampled, {}, x, strategy, stacked)
    torch.testing.assert_close(y, truth, rtol=1e-12, atol=1e-12)
    for found, correct in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, correct, rtol=1e-12, atol=1e-12)


def test_what_was_put_is_taken_out_also_after_an_exception():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight  # tied
    before = dict(module.named_parameters(remove_duplicate=False))
    put, value = Put(module), torch.zeros(2, 2)
    with pytest.raises(ZeroDivisionError), put({"0.weight": value}):  # noqa: PT012
        assert module[0].weight is value
        assert module[1].weight is value
        raise ZeroDivisionError
    after = dict(module.named_parameters(remove_duplicate=False))
    assert all(after[name] is p for name, p in before.items())
    with pytest.raises(UsageError, match=r"Sequential has no parameter or buffer '0\.wait'"):
        put({"1.weight": value, "0.wait": value}).__enter__()
    assert module[1].weight is before["1.weight"]


def test_an_operation_that_vmap_loops_over_is_named():
    class Looped(nn.Linear):
        def forward(self, x):
            return torch.renorm(super().forward(x), 2, 0, 1.0)

    module = Looped(3, 2).double()
    sampled, x = chunk(module, (3,))
    found = refusal(Put(module), module, sampled, {}, x.detach(), samples=SAMPLES, strategy="vmap")
    assert found == "torch.func.vmap would loop over aten::renorm"


def test_wrong_numbers_of_values_are_refused():
    module = nn.Linear(3, 2).double()
    sampled, x = chunk(module, (3,))
    put = Put(module)
    with pytest.raises(UsageError, match="weight has 5 values for 4 samples"):
        evaluate(put, module, sampled, {}, x, samples=4)
    with pytest.raises(UsageError, match="strategy = 'fast'; there is loop"):
        evaluate(put, module, sampled, {}, x, samples=5, strategy="fast")
    with pytest.raises(UsageError, match="stacked inputs are for 6 samples, there are 5"):
        evaluate(put, module, sampled, {}, x, samples=5, stacked=True)
