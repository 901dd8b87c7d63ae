"""What a CUDA graph of a step rests on, as far as a CPU can show it, and refusals in one line.

That a graph computes what a step does is tested on a GPU (test_gpu.py).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hpcsamp.collectives import Alone, distribute
from hpcsamp.data.augment import Augmentation
from hpcsamp.devices import on_device
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, make
from hpcsamp.losses.batch import Step
from hpcsamp.losses.evaluation import LossEvaluation
from hpcsamp.losses.graphs import Body, Graphs, NotCapturedError
from hpcsamp.methods import Flipout, Ivon, MCDropout, MeanField

ITEMS, SAMPLES = 6, 5


class NoHost(TorchDispatchMode):
    """Refuses operations that make the host wait for a device, or copy its numbers there."""

    FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "nonzero", "equal", "masked_select")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in self.FORBIDDEN:
            raise AssertionError(f"{function} in a step")
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def portable(monkeypatch):
    """The form of noise on GPUs."""
    monkeypatch.setenv("HPCSAMP_NOISE", "portable")


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4)
    )


METHODS = {
    "mean field": lambda: MeanField(network(), seed=3, samples_per_pass=2),
    "all at once": lambda: MeanField(network(), seed=3, samples_per_pass=8),
    "antithetic": lambda: MeanField(network(), seed=3, antithetic=True),
    "dropout": lambda: MCDropout(network(), seed=3),
    "dropout by item": lambda: MCDropout(network(), seed=3, masks="item"),
}


def evaluation(method, number):
    """A step with a batch of its own."""
    draw = torch.Generator().manual_seed(number)
    target = torch.randint(0, 4, (ITEMS,), generator=draw)
    items = Step(target, torch.rand(ITEMS, generator=draw), None, ITEMS, 50, Alone(), method)
    x = torch.randn(ITEMS, 3, generator=draw)
    own = range(1, 1 + SAMPLES)
    index = torch.randint(0, 50, (ITEMS,), generator=draw)
    loss = make("expected_nll", "classification")
    return LossEvaluation(
        loss, Alone(), True, method, x, False, index, None, items, own, 2 * SAMPLES, number, None, 2
    )


@pytest.mark.parametrize("made", METHODS.values(), ids=METHODS)
def test_a_body_follows_the_batch_and_the_number_of_a_step(made):
    method = made()
    first, second = evaluation(method, 4), evaluation(method, 7)
    method.observe(first.x, first.own_samples, 4, index=first.index)
    body = Body(first)
    body.run()
    for step in (second, first):
        value, gradients = step.stream()
        body.load(step)
        with NoHost():
            found, others = body.run()
        assert torch.equal(found, value)
        assert len(others) == len(gradients) > 1
        for own, other in zip(gradients, others, strict=True):
            assert torch.equal(own, other)
            assert own.abs().sum() > 0
    # each of these makes a difference, or the comparison above would show nothing
    plain = first.stream()[0]
    items = first.items
    for change in (
        {"step": 5},
        {"x": first.x + 0.1},
        {"items": replace(items, target=items.target.flip(0))},
        {"items": replace(items, weight=items.weight.flip(0))},
    ):
        assert not torch.equal(replace(first, **change).stream()[0], plain), change


class NoReading(NoHost):
    """Refuses to read numbers of a device only."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "equal", "masked_select")


@pytest.mark.parametrize("made", METHODS.values(), ids=METHODS)
def test_a_loss_is_not_read_before_it_is_asked_for(made):
    method = made()
    loss = ELBO(make("expected_nll", "classification"), 50)
    x, y = torch.randn(4, 3), torch.arange(4)
    loss(method, x, y, samples=2, step=0)
    with NoReading():
        value = loss(method, x, y, samples=2, step=1)
    parts = loss.parts
    assert parts.data > 0
    assert parts.total == pytest.approx(value.item(), rel=1e-6)


def test_a_gradient_is_read_only_where_ranks_are_compared():
    method = METHODS["all at once"]()
    loss = ELBO(make("expected_nll", "classification"), 50)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    distribute(optimizer, Alone(), method, compare_every=2)
    x, y = torch.randn(4, 3), torch.arange(4)
    for step in range(4):
        value = loss(method, x, y, samples=2)
        with NoReading() if step % 2 else nullcontext():
            value.backward()
        optimizer.step()
    value = loss(method, x, y, samples=2)
    with pytest.raises(AssertionError, match="in a step"), NoReading():
        value.backward()


def test_the_fill_of_a_view_is_copied_without_waiting(monkeypatch):
    copied = []
    monkeypatch.setattr(
        "hpcsamp.data.augment.on_device", lambda *a: copied.append(a) or on_device(*a)
    )
    augment = Augmentation(crop=1, fill=[0.5, 0.25])
    found = augment._padded(torch.ones(2, 2, 3, 3))
    assert len(copied) == 1
    assert found[0, :, 0, 0].tolist() == [0.5, 0.25]
    assert found.sum() == 2 * 9 * 2 + 2 * (25 - 9) * 0.75


def test_what_makes_the_host_wait_is_found():
    for act in (lambda: float(torch.ones(())), lambda: torch.tensor([1, 2])):
        with pytest.raises(AssertionError, match="in a step"), NoHost():
            act()


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: MeanField(network()), "need a GPU, but this run uses the device type cpu"),
        (lambda: Ivon(network()), "not with Ivon"),
        (lambda: Flipout(network()), "not with Flipout"),
    ],
)
def test_methods_that_cannot_be_captured(made, why):
    method = made()
    with pytest.raises(UsageError, match=rf"^training\.graphs is not possible: .*{why}") as error:
        Graphs().settle(method, Alone())
    assert "\n" not in str(error.value)
    loss = ELBO(make("expected_nll", "classification"), 50, graphs=True)
    with pytest.raises(UsageError, match=why):
        loss(method, torch.randn(4, 3), torch.zeros(4, dtype=torch.int64), samples=2)


def test_losses_that_cannot_be_captured():
    with pytest.raises(UsageError, match=r'needs loss\.memory = "stream".*not keep for Predictive'):
        ELBO(make("predictive_nll", "classification"), 50, graphs=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"undo": lambda outputs, samples: outputs}, "augmentation is undone"),
        ({"x": {"a": torch.randn(ITEMS, 3)}}, "several inputs or targets"),
    ],
)
def test_steps_that_cannot_be_captured(monkeypatch, change, why):
    monkeypatch.setattr("hpcsamp.losses.graphs.why_not", lambda *_: "")  # as on a GPU
    step = replace(evaluation(MeanField(network(), seed=3), 2), **change)
    if isinstance(step.x, dict):
        from hpcsamp.weights import inputs_of

        step = replace(step, x=inputs_of(step.x))
    with pytest.raises(UsageError, match=f"^training\\.graphs is not possible: .*{why}") as error:
        Graphs().prepare(step)
    assert "\n" not in str(error.value)


def test_auto_evaluates_without_a_graph_what_cannot_be_captured(monkeypatch, capsys):
    told = "hpcsamp: training.graphs = auto: no CUDA graphs are used, because "
    x, y = torch.randn(4, 3), torch.arange(4)
    values = []
    for graphs in (False, "auto"):
        loss = ELBO(make("expected_nll", "classification"), 50, graphs=graphs)
        method = MeanField(network(), seed=3)
        loss.check_method(method)
        values += [loss(method, x, y, samples=2).item() for _ in range(2)]
    assert len(set(values)) == 1
    assert capsys.readouterr().err == told + (
        "CUDA graphs need a GPU, but this run uses the device type cpu\n"
    )
    ELBO(make("predictive_nll", "classification"), 50, graphs="auto").check_method(method)
    assert capsys.readouterr().err.startswith(told + "it needs loss.memory")

    def refused(_):
        raise NotCapturedError("operation not permitted")

    monkeypatch.setattr("hpcsamp.losses.graphs.why_not", lambda *_: "")  # as on a GPU
    monkeypatch.setattr("hpcsamp.losses.graphs.Captured", refused)
    loss = ELBO(make("expected_nll", "classification"), 50, graphs="auto")
    loss.check_method(method)
    assert capsys.readouterr().err.count("replayed from a CUDA graph\n") == 1
    assert [loss(method, x, y, samples=2).item() for _ in range(2)] == values[:2]
    assert capsys.readouterr().err == told + "operation not permitted\n"
    with pytest.raises(UsageError, match="not possible: operation not permitted"):
        ELBO(make("expected_nll", "classification"), 50, graphs=True)(method, x, y, samples=2)


def test_buckets_and_graphs_exclude_each_other(monkeypatch):
    monkeypatch.setattr("hpcsamp.losses.graphs.early_of", lambda _: object())
    method = MeanField(network(), seed=3)
    monkeypatch.setattr("hpcsamp.losses.graphs.next", lambda _: Gpu(), raising=False)
    with pytest.raises(UsageError, match=r"parallel\.buckets exchanges"):
        Graphs().settle(method, Alone())


class Gpu:
    """Stands for a parameter on a GPU."""

    device = torch.device("cuda")


def test_a_run_on_a_cpu_is_refused(hpcsamp, small, tmp_path):
    done = hpcsamp(
        1, "train", small, "--output", tmp_path / "run", "--set=training.graphs=true", timeout=60
    )
    assert done.code == 2
    assert "training.graphs is not possible" in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
