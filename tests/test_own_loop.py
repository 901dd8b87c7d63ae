"""A training loop of your own: what is supported is correct on any ranks, the rest is refused."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from conftest import launch
from torch import nn

import hpcsamp as hs
from hpcsamp.collectives import Alone, Shards, distribute
from hpcsamp.errors import DivergedError, UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import Chains, Ensemble, MeanField

SCRIPT = Path(__file__).parent / "own_loop_cases.py"
CASES = [
    line[4:].split("(")[0]
    for mark, line in zip(
        SCRIPT.read_text().splitlines(), SCRIPT.read_text().splitlines()[1:], strict=False
    )
    if mark == "@case"
]
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X[:, :2].argmax(1)
LOSS = ExpectedNLL(Categorical())


@pytest.fixture(scope="module")
def outcomes():
    done = launch(2, str(SCRIPT), timeout=150)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("case", CASES)
def test_on_two_ranks(case, outcomes):
    assert outcomes[case] == ["passed", "passed"], "\n".join(outcomes[case])


def method_of(seed=1):
    torch.manual_seed(seed)
    return MeanField(nn.Linear(3, 2).double(), prior_std=1.0, seed=seed)


def sgd(method):
    return torch.optim.SGD(method.parameters(), lr=0.1)


def take(method, optimizer, samples=2):
    ELBO(LOSS, 8, Alone())(method, X, Y, samples=samples).backward()
    optimizer.step()
    optimizer.zero_grad()


def ensemble():
    return Ensemble(lambda _: nn.Linear(3, 2).double(), 2)


# What distribute is given ------------------------------------------------------------------------


def test_a_method_is_part_of_it():
    method = method_of()
    with pytest.raises(TypeError, match="method"):
        distribute(sgd(method), Alone())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": torch.optim.Adam}, "optimizer must be .*got the class Adam"),
        ({"collectives": Alone}, "collectives must be .*got the class Alone"),
        ({"method": MeanField}, "method must be .*got the class MeanField"),
        ({"method": nn.Linear(3, 2)}, "got a Linear; a module is wrapped by a method"),
        ({"method": None}, "method must be e.g. .*got a NoneType"),
        (
            {"collectives": hs.init("none")},
            "got a Topology; collectives are created from",
        ),
        ({"collectives": method_of(), "method": Alone()}, "collectives must be .*got a MeanField"),
        ({"optimizer": Alone()}, "optimizer must be e.g. .*got a Alone"),
        ({"clip": 0}, "clip must be a number greater than 0, got 0"),
        ({"clip": "1"}, "clip must be"),
        ({"clip": float("nan")}, "clip must be"),
        ({"updates": [1]}, "updates must be Updates, got list"),
    ],
)
def test_arguments_of_a_wrong_kind(change, message):
    method = method_of()
    given = {"optimizer": sgd(method), "collectives": Alone(), "method": method, **change}
    with pytest.raises(UsageError, match=message):
        distribute(**given)


def test_the_parameters_must_be_those_of_the_method():
    method, other = method_of(), method_of()
    beside = nn.Parameter(torch.zeros(1).double())
    wrong = {
        "2 of the 2 parameters of SGD do not belong": other.parameters(),
        r"2 of the 2 .*create it from method.parameters\(\)": method.module.parameters(),
        "1 of the 3 parameters": [*method.parameters(), beside],
        "lacks 'log_std' of the MeanField": [method.mean],
    }
    for message, parameters in wrong.items():
        with pytest.raises(UsageError, match=message):
            distribute(torch.optim.SGD(parameters, lr=0.1), Alone(), method)
    method.log_std.requires_grad_(False)
    before = method.log_std.detach().clone()
    optimizer = distribute(torch.optim.SGD([method.mean], lr=0.1), Alone(), method)
    take(method, optimizer)
    assert torch.equal(method.log_std, before)
    method.mean.requires_grad_(False)
    with pytest.raises(UsageError, match="all are frozen"):
        distribute(sgd(method), Alone(), method)


def test_parts_may_have_groups_of_their_own():
    method = method_of()
    groups = [{"params": [method.log_std], "lr": 0.0}, {"params": [method.mean]}]
    optimizer = distribute(torch.optim.SGD(groups, lr=0.1), Alone(), method)
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    take(method, optimizer)
    assert torch.equal(method.log_std, before["log_std"])
    assert not torch.equal(method.mean, before["mean"])


def test_parameters_of_two_types_are_refused():
    method = method_of()
    method.log_std.data = method.log_std.data.float()
    with pytest.raises(UsageError, match=r"float32 on cpu and torch.float64 on cpu"):
        distribute(sgd(method), Alone(), method)


def test_shards_must_be_those_of_the_method():
    method = method_of()
    shards = Shards(method.parameters(), Alone())
    with pytest.raises(UsageError, match=r"must be created from shards.parts"):
        distribute(sgd(method), Alone(), method, updates=shards)
    optimizer = torch.optim.SGD(shards.parts, lr=0.1)
    distribute(optimizer, Alone(), method, updates=shards)
    with pytest.raises(UsageError, match=r"closure.* cannot be used with shards"):
        optimizer.step(lambda: 0.0)
    take(method, optimizer)
    method.mean.data = method.mean.data.clone()
    with pytest.raises(UsageError, match="storage was replaced"):
        take(method, optimizer)


def test_an_optimiser_that_needs_a_closure_cannot_train_members_apart():
    members = ensemble()
    with pytest.raises(UsageError, match="LBFGS uses all weights together"):
        distribute(torch.optim.LBFGS(members.parameters()), Alone(), members)


# What is done to it afterwards -------------------------------------------------------------------


def add_a_group(method, optimizer):
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1).double())]})


def assign(method, optimizer):
    method.load_state_dict(copy.deepcopy(method.state_dict()), assign=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_a_group, "parameters of SGD have changed since"),
        (assign, "replaced .load_state_dict.assign=True..*since hs.distribute"),
        (lambda m, o: m.log_std.requires_grad_(False), "frozen or unfrozen since"),
        (lambda m, o: m.to(torch.float32), "was torch.float64 on cpu when .* is torch.float32"),
    ],
)
def test_what_would_be_lost_is_refused(change, message):
    method = method_of()
    optimizer = distribute(sgd(method), Alone(), method)
    take(method, optimizer)
    change(method, optimizer)

    def go_on():
        ELBO(LOSS, 8, Alone())(method, X.to(method.mean.dtype), Y, samples=2).backward()
        optimizer.step()

    with pytest.raises(UsageError, match=message):
        go_on()


def test_the_newest_optimiser_of_a_method_trains_it():
    method, twin = method_of(), method_of()
    first = distribute(sgd(method), Alone(), method)
    distribute(first, Alone(), method)  # a cell of a notebook that is run again
    take(method, first)
    second = distribute(sgd(method), Alone(), method)
    take(method, second)
    with pytest.raises(UsageError, match="SGD no longer trains the MeanField"):
        take(method, first)
    expected = distribute(sgd(twin), Alone(), twin)
    take(twin, expected)
    take(twin, expected)
    assert torch.equal(method.mean, twin.mean)
    assert method.step == twin.step == 2


def test_what_is_no_longer_used_is_freed():
    """Trying one network after the other in a notebook does not fill the memory."""
    method = method_of()
    optimizer = distribute(sgd(method), Alone(), method)
    take(method, optimizer)
    seen = weakref.ref(method)
    del method, optimizer
    gc.collect()
    assert seen() is None


def test_an_optimiser_goes_on_from_its_state():
    whole, before, after = method_of(), method_of(), method_of()
    kinds = [torch.optim.Adam(m.parameters(), lr=0.1) for m in (whole, before, after)]
    one, two, three = (
        distribute(o, Alone(), m) for o, m in zip(kinds, (whole, before, after), strict=True)
    )
    for _ in range(4):
        take(whole, one)
    for _ in range(2):
        take(before, two)
    after.load_state_dict(before.state_dict())
    three.load_state_dict(two.state_dict())
    after.step = before.step
    for _ in range(2):
        take(after, three)
    assert torch.equal(whole.mean, after.mean)


def test_noise_is_drawn_anew_with_each_step_and_the_same_for_micro_batches():
    method = method_of()
    optimizer = distribute(sgd(method), Alone(), method)
    seen = []
    for _ in range(2):
        for _ in range(2):
            value = ELBO(LOSS, 8)(method, X, Y, samples=2)
            seen.append((method.step, method.noise(method.step, range(1))))
            value.backward()
        with torch.no_grad():  # an evaluation between
            ELBO(LOSS, 8)(method, X, Y, samples=2)
        optimizer.step()
        optimizer.zero_grad()
    assert [step for step, _ in seen] == [0, 0, 1, 1]
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][1], seen[2][1])


def test_chains_step_by_closures_too():
    def chain(closure):
        torch.manual_seed(0)
        method = Chains(lambda _: nn.Linear(3, 2).double(), 2, cycles=0, snapshots=1)
        method.begin(8, 3, 3)
        optimizer = distribute(
            method.optimizers["SGLD"](method.parameters(), 0.01), Alone(), method
        )

        def evaluate():
            optimizer.zero_grad()
            value = ELBO(LOSS, 8)(method, X, Y, samples=2)
            value.backward()
            return value

        for _ in range(3):
            if closure:
                assert optimizer.step(evaluate) > 0
            else:
                evaluate()
                optimizer.step()
        return method.weights

    assert torch.equal(chain(False), chain(True))


def test_a_gradient_that_is_not_finite_is_no_step():
    method = method_of()
    optimizer = distribute(sgd(method), Alone(), method)
    (ELBO(LOSS, 8)(method, X, Y, samples=2) * torch.inf).backward()
    with pytest.raises(DivergedError, match="gradient of step 0 is not finite on rank 0"):
        optimizer.step()


def test_a_loop_without_distribute_is_noticed():
    method, loss = method_of(), ELBO(LOSS, 8)
    optimizer = torch.optim.Adam(method.parameters(), fused=True)
    loss(method, X, Y, samples=2).backward()
    loss(method, X, Y, samples=2)  # nothing has changed
    optimizer.step()
    with torch.no_grad():
        loss(method, X, Y, samples=2)
    loss(method, X, Y, samples=2, step=0)  # who says so means it
    with pytest.raises(UsageError, match=r"method.step is still 0.*hs.distribute\("):
        loss(method, X, Y, samples=2)


def test_loss_and_optimiser_must_exchange_on_one_grid():
    class Two(Alone):
        sample_size = 2

    method = method_of()
    distribute(sgd(method), Alone(), method)
    with pytest.raises(UsageError, match=r"2 sample x 1 data ranks, .*on 1 sample x 1 data"):
        ELBO(LOSS, 8, Two())(method, X, Y, samples=2)


# The loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [-5, 0, 1.5, 8.0, True, "8", None, torch.tensor(8)])
def test_the_number_of_items_is_one(items):
    with pytest.raises(UsageError, match=r"items must be N, .*of at least 1; got"):
        ELBO(LOSS, items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mse", 8), "data_loss must be a loss, got 'mse'; hs.losses.make"),
        ((ExpectedNLL, 8), "got the class ExpectedNLL, not an instance of it"),
        ((nn.MSELoss(), 8), "got a MSELoss; e.g."),
        ((LOSS, 8, hs.init("none")), "got a Topology; make them with hs.choose"),
        ((8, LOSS), "data_loss must be a loss, got 8"),
    ],
)
def test_what_an_elbo_is_made_of(arguments, message):
    with pytest.raises(UsageError, match=message):
        ELBO(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"warmup": 0.5}, "warmup must be a function of the step"),
    ],
)
def test_options_of_an_elbo(options, message):
    with pytest.raises(UsageError, match=message):
        ELBO(LOSS, 8, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": nn.Linear(3, 2)}, "must be a method, got a Linear; wrap a module"),
        ({"x": X.numpy()}, "inputs are a tensor.*not a ndarray"),
        ({"y": Y[:4]}, r"x \(8, 3\) and y \(4,\) must have the same number of items"),
        ({"x": X[:0], "y": Y[:0]}, "at least one"),
        ({"samples": 0}, "S must be a whole number of at least 1"),
        ({"samples": True}, "S must be a whole number"),
        ({"samples": range(4)}, "S must be a whole number"),
    ],
)
def test_what_a_loss_is_called_with(change, message):
    given = {"method": method_of(), "x": X, "y": Y, "samples": 2, **change}
    method, x, y = (given.pop(n) for n in ("method", "x", "y"))
    with pytest.raises(UsageError, match=message):
        ELBO(LOSS, 8)(method, x, y, **given)
