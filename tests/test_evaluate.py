"""Chunks of samples evaluated by every strategy, against one sample at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from evaluate_cases import ANY, IDS, Does
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.weights import Put, evaluate, refusal
from hpcsamp.weights.strategies import STRATEGIES, batched, loop, vmapped
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError

SAMPLES = 3


def values(module, samples=SAMPLES, only=None, dtype=torch.float64):
    """Parameters of a module, of which some have a samples axis."""
    generator = torch.Generator().manual_seed(1)
    sampled, shared = {}, {}
    for name, p in module.named_parameters():
        if only is None or only(name):
            noise = torch.randn(samples, *p.shape, generator=generator, dtype=torch.float64)
            sampled[name] = (p.detach() + 0.3 * noise).to(dtype).requires_grad_()
        else:
            shared[name] = p.detach().to(dtype).requires_grad_()
    return sampled, shared


def inputs(shape, items=4, samples=None, ids=False):
    generator = torch.Generator().manual_seed(2)
    lead = (items,) if samples is None else (samples, items)
    if ids:
        return torch.randint(7, (*lead, *shape), generator=generator)
    x = torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def outcome(run, chunk):
    """Outputs, and gradients of a weighted sum of them, of all that may have one."""
    y = run(chunk)
    leaves = [*chunk.sampled.values(), *chunk.shared.values()]
    leaves += [chunk.x] if chunk.x.requires_grad else []
    weight = torch.arange(y.numel(), dtype=torch.float64).cos().view(y.shape)
    return y, torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)


def assert_as_a_loop(chunk, run, tolerance=1e-12):
    truth, expected = outcome(loop.run, chunk)
    y, gradients = outcome(run, chunk)
    torch.testing.assert_close(y, truth, rtol=tolerance, atol=tolerance)
    for found, correct in zip(gradients, expected, strict=True):
        assert (found is None) == (correct is None)
        if found is not None:
            torch.testing.assert_close(found, correct, rtol=tolerance, atol=tolerance * 10)


def made(name, stacked=False, samples=SAMPLES, items=4):
    make, shape = {**ANY, **IDS}[name]
    torch.manual_seed(0)
    module = make().double()
    sampled, shared = values(module, samples)
    x = inputs(shape, items, samples if stacked else None, name in IDS)
    return Chunk(Put(module), module, sampled, shared, x, samples, stacked)


#: What vmap cannot do, and how it is said.
NOT_VECTORISED = {
    "checkpointed": "model.checkpoint = true",
    "gru": "aten::gru",
    "lstm": "aten::lstm",
    "lstm, batch first": "aten::lstm",
    "rectified rnn": "aten::rnn_relu",
    "rnn": "aten::rnn_tanh",
    "weight norm": "torch.func.vmap would loop over aten::_weight_norm",
}


@pytest.mark.parametrize("stacked", [False, True], ids=["shared inputs", "own inputs"])
@pytest.mark.parametrize("run", [vmapped.run, batched.early], ids=["vmap", "batched"])
@pytest.mark.parametrize("name", [*ANY, *IDS])
def test_outputs_and_gradients_are_those_of_a_loop(name, run, stacked):
    chunk = made(name, stacked)
    if run is vmapped.run and name in NOT_VECTORISED:
        arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
        found = refusal(*arguments, samples=SAMPLES, stacked=stacked, strategy="vmap")
        assert NOT_VECTORISED[name] in found
        return
    assert_as_a_loop(chunk, run)


#: What uses inputs, or something made of them, also after samples have come in.
NOT_LATE = {
    "padded attention",
    "residual",
    "residual inside",
    "swin",
    "transformer",
    "transformer, tokens first",
}


@pytest.mark.parametrize("name", [*ANY, *IDS])
def test_inputs_may_come_in_without_samples(name):
    chunk = made(name)
    arguments = (chunk.put, chunk.call, chunk.sampled, {}, chunk.x)
    assert refusal(*arguments, samples=SAMPLES, strategy="batched") is None
    (verdict,) = chunk.put.known.values()
    assert_as_a_loop(chunk, verdict.run)
    assert (verdict.run is batched.early) == (name in NOT_LATE)


@pytest.mark.parametrize("run", [batched.late, batched.early], ids=["late", "early"])
@pytest.mark.parametrize("name", ["transformer", "attention with its weights", "padded attention"])
def test_fast_paths_of_evaluation_mode_are_left_alone(name, run):
    chunk = made(name)
    chunk.put.module.eval()
    with torch.no_grad():
        if run is batched.late and name in NOT_LATE:
            with pytest.raises((RuntimeError, NotPossibleError)):
                run(chunk)
        else:
            torch.testing.assert_close(run(chunk), loop.run(chunk), rtol=1e-12, atol=1e-12)
        arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
        assert refusal(*arguments, samples=SAMPLES, strategy="batched") is None


def test_what_comes_before_the_first_sampled_layer_runs_once():
    rows = []

    def body(module, x):
        rows.append(len(x))
        return torch.tanh(module.parts[0](x))

    module = nn.Sequential(Does(body, nn.Linear(3, 4)), nn.Linear(4, 2)).double()
    sampled, shared = values(module, only=lambda name: name.startswith("1."))
    chunk = Chunk(Put(module), module, sampled, shared, inputs((3,)), SAMPLES, False)
    assert_as_a_loop(chunk, batched.late)
    assert rows == [4] * SAMPLES + [4]


@pytest.mark.parametrize("items", [1, 2, 5, 15])
@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("name", ["tokens first", "attention, tokens first", "swin", "positions"])
def test_coincidences_of_sizes_change_nothing(name, samples, items):
    """Five tokens: as many as items, as samples, or as samples times items."""
    chunk = made(name, samples=samples, items=items)

    def run(chunk):
        arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
        return evaluate(*arguments, samples=samples, strategy="batched")

    assert_as_a_loop(chunk, run)


def test_sizes_that_mislead_are_noticed():
    """Two tables of positions look like two items."""
    module = Does(lambda m, x: x + (m.parts[0](m.table)).sum(0), nn.Linear(3, 3),
                  table=torch.ones(4, 3)).double()  # fmt: skip
    sampled, shared = values(module, only=lambda name: name != "table")
    chunk = Chunk(Put(module), module, sampled, shared, inputs((3,), 2), 2, False)
    chunk = chunk.__class__(chunk.put, module, {n: v[:2] for n, v in sampled.items()}, shared,
                            chunk.x, 2, False)  # fmt: skip
    arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
    found = refusal(*arguments, samples=2, strategy="batched")
    assert found is not None
    y = evaluate(*arguments, samples=2, strategy="batched")
    torch.testing.assert_close(y, loop.run(chunk))


def test_a_wrong_gradient_is_noticed(monkeypatch):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            return 2 * grads[0]

    chunk = made("dense")
    arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
    monkeypatch.setitem(STRATEGIES, "batched", (lambda chunk: Wrong.apply(batched.early(chunk)),))
    found = refusal(*arguments, samples=SAMPLES, strategy="batched")
    assert found == "gradients differ from those of one sample at a time"
    with torch.no_grad():
        assert refusal(*arguments, samples=SAMPLES, strategy="batched") is None


ALONE = {
    "value": (lambda m, x: x * (2 if m.w.sum() > 0 else 1), "truth value of a", "data-dependent"),
    "number": (lambda m, x: x * m.w[0].item(), "Tensor.item of a weight", "item"),
    "bilinear": (lambda m, x: m.parts[0](x, x), "would loop over aten::bilinear",
                 "would loop over aten::bilinear"),
    "dropout": (lambda m, x: F.dropout(x * m.w), "outputs differ", "randomness"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_what_only_a_loop_can_do_is_done_by_it(name):
    does, of_batched, of_vmap = ALONE[name]
    module = Does(does, nn.Bilinear(3, 3, 2), w=torch.ones(3)).double()
    sampled, _ = values(module)
    chunk = Chunk(Put(module), module, sampled, {}, inputs((5, 3)), SAMPLES, False)
    arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
    for strategy, expected in {"batched": of_batched, "vmap": of_vmap}.items():
        assert expected in refusal(*arguments, samples=SAMPLES, strategy=strategy)
        if name != "dropout":
            y = evaluate(*arguments, samples=SAMPLES, strategy=strategy)
            assert torch.equal(y, loop.run(chunk))


@pytest.mark.parametrize("run", [batched.late, batched.early], ids=["late", "early"])
@pytest.mark.parametrize("name", ["vit", "layer norm", "attention", "two convolutions"])
def test_half_precision_under_autocast(name, run):
    chunk = made(name)
    chunk.put.module.float()
    sampled, _ = values(chunk.put.module, dtype=torch.float32)
    chunk = replace(chunk, sampled=sampled, x=chunk.x.detach().float())
    arguments = (chunk.put, chunk.call, chunk.sampled, chunk.shared, chunk.x)
    with torch.autocast("cpu", torch.bfloat16):
        truth, y = loop.run(chunk), run(chunk)
        assert refusal(*arguments, samples=SAMPLES, strategy="batched") is None
        found = refusal(*arguments, samples=SAMPLES, strategy="vmap")
    assert y.dtype == truth.dtype
    torch.testing.assert_close(y.float(), truth.float(), rtol=0.05, atol=0.05)
    assert found in (None, "outputs have the type torch.float32 instead of torch.bfloat16")


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


def test_wrong_numbers_of_values_are_refused():
    chunk = made("dense")
    arguments = (chunk.put, chunk.call, chunk.sampled, {}, chunk.x)
    with pytest.raises(UsageError, match=r"0\.weight has 3 values for 4 samples"):
        evaluate(*arguments, samples=4)
    with pytest.raises(
        UsageError, match="strategy = 'fast'; choose from auto, loop, vmap, batched"
    ):
        evaluate(*arguments, samples=3, strategy="fast")
    with pytest.raises(UsageError, match="stacked inputs are for 4 samples, but there are 3"):
        evaluate(*arguments, samples=3, stacked=True)
