"""The choice of chunk and strategy: what is fastest by the clock, agreed between ranks."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hpcsamp.errors import UsageError
from hpcsamp.methods import MeanField
from hpcsamp.run import chosen
from hpcsamp.weights import Passes, choice


class Passed:
    """Passes that take milliseconds ``cost(chunk)`` on a clock of their own."""

    def __init__(self, cost, refused=()):
        self.cost, self.refused, self.asked, self.now = cost, refused, [], 0.0

    def run_of(self, passes):
        self.asked.append(passes)
        return None if passes.strategy in self.refused else lambda: self.run(passes)

    def run(self, passes):
        self.now += 1e-3 * self.cost(passes.chunk)


def choice_of(cost, most=16, activations=1.0, room=1e9, refused=(), **named):
    passed = Passed(cost, refused)
    found, seconds = choice.choose(
        passed.run_of, most, activations, room, clock=lambda: passed.now, **named
    )
    return found, seconds, passed.asked


def test_a_chunk_whose_cost_is_that_of_a_sample_is_the_largest():
    found, seconds, _ = choice_of(lambda chunk: 2)
    assert found == Passes(16, "batched")
    assert seconds == pytest.approx(0.002)


def test_a_loop_is_preferred_unless_a_chunk_is_clearly_faster():
    found, seconds, asked = choice_of(lambda chunk: 2 * chunk)
    assert found == Passes(1, "loop")
    assert seconds == pytest.approx(0.032)
    assert [p.chunk for p in asked] == [1, 2, 4]  # no larger one is tried


def test_a_chunk_of_two_may_gain_nothing_where_one_of_four_does():
    cost = {1: 4, 2: 8, 4: 8, 8: 8, 16: 8}
    assert choice_of(cost.__getitem__)[0] == Passes(16, "batched")


def test_long_passes_that_gain_nothing_end_the_search():
    found, _, asked = choice_of(lambda chunk: 40 * chunk)
    assert found == Passes(1, "loop")
    assert [p.chunk for p in asked] == [1, 2]


def test_chunks_grow_until_they_do_not_pay():
    cost = {1: 4, 2: 4, 4: 4, 8: 16}
    found, _, asked = choice_of(cost.__getitem__)
    assert found == Passes(4, "batched")
    assert [p.chunk for p in asked] == [1, 2, 4, 8]


def test_the_memory_of_activations_limits_a_chunk():
    found, _, asked = choice_of(lambda chunk: 2, activations=100.0, room=500.0)
    assert found == Passes(4, "batched")
    assert max(p.chunk for p in asked) == 4


def test_what_a_module_refuses_is_not_chosen():
    assert choice_of(lambda chunk: 2, refused=("batched",))[0] == Passes(16, "vmap")
    assert choice_of(lambda chunk: 2, refused=("batched", "vmap"))[0] == Passes(1, "loop")


@pytest.mark.parametrize(
    ("most", "chunks"), [(1, []), (2, [2]), (5, [2, 3, 5]), (6, [2, 3, 6]), (16, [2, 4, 8, 16])]
)
def test_chunks_divide_samples_evenly(most, chunks):
    asked = choice_of(lambda chunk: 2, most)[2]
    assert [p.chunk for p in asked if p.chunk > 1] == chunks


def test_the_slowest_rank_decides():
    """A rank for which nothing is gained keeps all ranks from it."""
    calls = []

    def largest(value):
        calls.append(value)
        return max(value, 0.008) if value else value  # another rank always needs 8 ms

    found, seconds, _ = choice_of(lambda chunk: 4 / chunk, largest=largest)
    assert found == Passes(16, "batched")  # a pass costs the same for any chunk there
    assert seconds == pytest.approx(0.008)
    refused = choice_of(lambda chunk: 2, largest=lambda v: 1.0 if v == 0.0 else v)[0]
    assert refused == Passes(1, "loop")  # another rank's module refuses


def test_bytes_that_a_pass_keeps_leave_parameters_out():
    layer, x = nn.Linear(100, 10).double(), torch.zeros(7, 100, dtype=torch.float64)
    held = frozenset(p.untyped_storage().data_ptr() for p in layer.parameters())
    assert choice.kept_bytes(lambda: layer(x).exp(), held) == 8 * (7 * 100 + 7 * 10)


def small(**named):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    return MeanField(net, seed=1, **named)


def test_a_method_chooses_in_training_and_in_prediction():
    method, x = small(samples_per_pass="auto"), torch.randn(4, 3, dtype=torch.float64)
    assert method.samples_per_pass == 1
    before = method(x, samples=range(8)).detach()
    assert method.choose(x, range(8)) > 0
    assert method.settled
    assert all(p.grad is None for p in method.parameters())
    torch.testing.assert_close(method(x, samples=range(8)), before, rtol=1e-12, atol=1e-12)
    with method.predicting():
        assert not method.settled
        with torch.no_grad():
            method.choose(x, range(8))
        assert method.settled
    other = small(samples_per_pass="auto")
    other.take_choice(method.choice())
    assert other.settled
    assert other.passes == method.passes
    named = small(samples_per_pass=3)
    named.take_choice(method.choice())
    assert named.samples_per_pass == 3
    assert named.choose(x, range(8)) > 0
    assert named.passes == Passes(3, "auto")


class Unusual(nn.Module):
    """A layer that neither vmap nor a rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Bilinear(3, 3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x, x))


@pytest.mark.parametrize("strategy", ["batched", "vmap"])
@pytest.mark.parametrize("predicts", [False, True])
def test_a_strategy_that_a_module_does_not_allow_is_refused_by_layer(strategy, predicts):
    method, x = MeanField(Unusual().double(), seed=1), torch.randn(4, 3, dtype=torch.float64)
    method.strategy = strategy
    message = (
        rf"method\.strategy = .{strategy}. is not possible: body, a Bilinear: .*aten::bilinear"
    )
    with method.predicting() if predicts else nullcontext():
        with pytest.raises(UsageError, match=message):
            method.check_passes(x, range(4))
        method.samples_per_pass = 2
        with pytest.raises(UsageError, match=message):
            method(x, samples=range(4))
        method.strategy = "auto"
        assert method(x, samples=range(4)).shape == (4, 4, 2)
    with pytest.raises(
        UsageError, match="strategy = 'fast'; choose from auto, loop, vmap, batched"
    ):
        method.strategy = "fast"


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "all", None])
def test_a_chunk_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError, match=r"method\.samples_per_pass = .* must be"):
        small(samples_per_pass=wrong)


def test_a_choice_is_used_again_where_it_was_measured_and_only_there():
    here, elsewhere = (
        SimpleNamespace(sample_size=ranks, device=torch.device("cpu")) for ranks in (2, 3)
    )
    method, x = small(samples_per_pass="auto"), torch.randn(4, 3, dtype=torch.float64)
    method.choose(x, range(8))
    content = {"passes": chosen.kept(method, here)}
    for topology, known in ((here, True), (elsewhere, False)):
        other = small(samples_per_pass="auto")
        chosen.take(content, other, topology)
        assert other.settled == known
        assert (other.passes == method.passes) or not known
    chosen.take({}, other, here)  # of a version that did not choose
    assert not other.settled


def test_prediction_may_have_a_chunk_of_its_own():
    method = small(samples_per_pass=3)
    method.predict_per_pass(2)
    assert method.samples_per_pass == 3
    with method.predicting():
        assert method.samples_per_pass == 2
        assert [len(c) for c in method.chunks(range(5))] == [2, 2, 1]
    method.samples_per_pass = 4
    with method.predicting():
        assert method.samples_per_pass == 4
