"""A user's own training loop on two ranks: a script that prints the outcome of cases as JSON.

A case trains on two ranks and compares with the same loop on one process, or does something that
must be refused by the same line on both.
"""

from __future__ import annotations

import json
import re
import sys
import traceback

import torch
from torch import nn

import hpcsamp as hs
from hpcsamp.collectives import Alone, distribute
from hpcsamp.errors import HpcsampError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL, PredictiveNLL
from hpcsamp.methods import Ensemble, MeanField

TOPOLOGY, APART = hs.init(2), hs.init("none")  # one sample group of two; two data groups
RANK = TOPOLOGY.rank
C, D = hs.choose(TOPOLOGY, "mpi"), hs.choose(APART, "mpi")
G = torch.Generator().manual_seed(1)
X = torch.randn(12, 3, generator=G, dtype=torch.float64)
Y = X[:, :2].argmax(1)
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Net(nn.Module):
    """A network with a random buffer and a frozen weight beside its trained parameters."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.body.weight.requires_grad_(False)
        self.register_buffer("scale", torch.rand(4) + 0.5)
        self.double()

    def forward(self, x):
        return self.head(self.scale * torch.tanh(self.body(x)))


def method_of(seed, **more):
    return MeanField(Net(seed), prior_std=1.0, initial_std=0.1, **more)


def sgd(method, **more):
    return torch.optim.SGD(method.parameters(), lr=0.5, **more)


def begin(c, method=None, made=sgd, items=12, **more):
    """Method, optimiser and loss; each rank starts from different weights."""
    method = method_of(RANK if c.size("world") > 1 else 0) if method is None else method
    optimizer = distribute(made(method), c, method, **more)
    return method, optimizer, ELBO(PredictiveNLL(Categorical()), items, c)


def take(method, optimizer, loss, x=X, y=Y, samples=4, between=lambda method: None):
    loss(method, x, y, samples=samples).backward()
    between(method)
    optimizer.step()
    optimizer.zero_grad()


def mine(c, x):
    """This data group's part of a batch."""
    return x.chunk(2)[RANK] if c.data_size > 1 else x


def check_same(method, other, at=1e-12):
    """Check that ranks agree bitwise, and with one process."""
    for name, x in method.held().items():
        everyone = TOPOLOGY.world.allgather(x.numpy().tobytes())
        assert everyone[0] == everyone[1], name
        assert torch.allclose(x, other.held()[name], rtol=at, atol=at), name
    assert method.step == other.step


def against_one_process(loop, made=sgd, **more):
    """A loop on a sample group, on two data groups, and on one process."""
    alone = begin(Alone(), made=made, **more)
    loop(Alone(), *alone)
    for c in (C, D):
        several = begin(c, made=made, **more)
        loop(c, *several)
        check_same(several[0], alone[0])


@case
def ranks_start_from_the_first_ones_weights_and_end_with_those_of_one_process():
    def loop(c, *things):
        for _ in range(4):
            take(*things, x=mine(c, X), y=mine(c, Y))

    against_one_process(loop)


@case
def micro_batches_add_up():
    def loop(c, method, optimizer, loss):
        for _ in range(3):
            for part in range(2):  # of the same draws
                x, y = (mine(c, v[part * 6 : part * 6 + 6]) for v in (X, Y))
                loss(method, x, y, samples=4).backward()
            optimizer.step()
            optimizer.zero_grad()

    against_one_process(loop)


@case
def a_gradient_that_is_never_cleared_is_exchanged_once():
    def loop(c, method, optimizer, loss):
        for step in range(4):
            loss(method, mine(c, X), mine(c, Y), samples=4).backward()
            optimizer.step()
            if step == 1:
                optimizer.step()  # the same gradient once more

    against_one_process(loop)


@case
def somebody_elses_clipping_sees_the_gradient_of_all_ranks():
    def clip(method):
        nn.utils.clip_grad_norm_(method.parameters(), 0.05)
        method.mean.grad = method.mean.grad * 2  # out of place

    def loop(c, *things):
        for _ in range(3):
            take(*things, x=mine(c, X), y=mine(c, Y), between=clip)
            things[0].zero_grad()  # to None

    against_one_process(loop)


@case
def gradients_by_hand_are_exchanged_by_the_step():
    def loop(c, method, optimizer, loss):
        for _ in range(3):
            value = loss(method, mine(c, X), mine(c, Y), samples=4)
            parameters = list(method.parameters())
            for p, g in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
                p.grad = g
            optimizer.step()

    against_one_process(loop)


@case
def closures():
    kinds = {
        "SGD": sgd,
        "LBFGS": lambda m: torch.optim.LBFGS(
            m.parameters(), max_iter=4, line_search_fn="strong_wolfe"
        ),
    }
    for made in kinds.values():

        def loop(c, method, optimizer, loss):
            def closure():
                optimizer.zero_grad()
                value = loss(method, mine(c, X), mine(c, Y), samples=4)
                value.backward()
                return value

            for _ in range(3):
                optimizer.step(closure)

        against_one_process(loop, made=made, clip=0.5)


def scaled(c, method, optimizer, loss):
    """Steps with a GradScaler; in the second step only the gradient of rank 1 is infinite."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(3):
        value = loss(method, mine(c, X), mine(c, Y), samples=4)
        last = c.size("world") == 1 or RANK == 1
        scaler.scale(value * (torch.inf if step == 1 and last else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() == 2.0
    assert method.step == 2  # one was none


@case
def a_scaler_skips_a_step_on_all_ranks():
    against_one_process(scaled)


@case
def a_scaler_of_a_fused_optimiser_skips_a_step_on_all_ranks():
    def adam(m):
        return torch.optim.Adam(m.parameters(), fused=True)

    against_one_process(scaled, made=adam, clip=0.01)


@case
def a_scaler_skips_a_step_of_all_members():
    def member(seed):
        torch.manual_seed(seed)
        return nn.Linear(3, 2).double()

    def made(own):
        return Ensemble(member, 4, own)

    def linear(c, method):
        optimizer = distribute(sgd(method), c, method)
        scaled(c, method, optimizer, ELBO(ExpectedNLL(Categorical()), 12, c))
        return method

    alone = linear(Alone(), made(range(4)))
    several = linear(C, made(TOPOLOGY.samples(4)))
    own = slice(several.members.start, several.members.stop)
    assert torch.allclose(several.weights, alone.weights[own], rtol=1e-12)


# Refusals -------------------------------------------------------------------------------------


def refused(pattern, function):
    line, agreed = "nothing was raised", False
    try:
        function()
    except HpcsampError as e:
        line, agreed = f"{type(e).__name__}: {e}", e.agreed
    lines = TOPOLOGY.world.allgather(line)
    assert lines[0] == lines[1], lines
    assert re.search(pattern, line), line
    assert agreed, line


def trained(steps, c=C, spoil=None, at=1, **batch):
    """Train a run that is changed after a step."""
    things = begin(c)
    for step in range(steps):
        if step == at and spoil is not None:
            spoil(*things)
        take(*things, **batch)


@case
def differences_at_the_start_are_named():
    def start(seed=1, lr=0.1, made=torch.optim.SGD, frozen=False, loaded=False, width=3):
        method = MeanField(nn.Linear(width, 2).double(), seed=seed)
        method.log_std.requires_grad_(not frozen)
        optimizer = made(method.parameters(), lr=lr)
        if loaded:
            method.mean.grad = torch.full_like(method.mean, float(RANK))
            optimizer.step()
        distribute(optimizer, C, method)

    refused("same method.seed, which is 0 on rank 0 and 1 on rank 1", lambda: start(seed=RANK))
    refused(r"\['lr'\], which is 1.0 on rank 0 and 2.0 on rank 1", lambda: start(lr=RANK + 1.0))
    kinds = torch.optim.SGD, torch.optim.Adagrad
    refused("optimizer, which is SGD on rank 0 and Adagrad", lambda: start(made=kinds[RANK]))
    refused("frozen 'log_std', which is False", lambda: start(frozen=RANK == 1))
    refused("optimizer.state", lambda: start(made=torch.optim.Adam, loaded=True))
    refused(r"shape of 'mean', which is \(8,\)", lambda: start(width=3 + RANK))


@case
def differences_of_members_are_named():
    def start(**more):
        method = Ensemble(Net, 4, TOPOLOGY.samples(4), **more)
        distribute(sgd(method), C, method)

    start(prior_std=1.0)
    refused("same method.prior_std, which is 1.0 on", lambda: start(prior_std=RANK + 1.0))


@case
def members_on_several_ranks_that_would_become_one_network_are_refused():
    def start(seed):
        method = Ensemble(lambda s: Net(seed(s)), 4, TOPOLOGY.samples(4))
        optimizer = distribute(sgd(method), C, method)
        take(method, optimizer, ELBO(ExpectedNLL(Categorical()), 12, C))

    start(lambda s: s)
    refused("the 4 members of Ensemble start from equal weights", lambda: start(lambda _: 1))


@case
def attributes_that_are_no_buffers_are_compared():
    def start(value):
        net = Net(1)
        net.head.offset = value
        begin(C, MeanField(net))

    start(torch.ones(3))
    for value in (torch.ones(3) + RANK, 0.5 + RANK):
        refused("attribute 'offset' of head", lambda value=value: start(value))


@case
def differences_that_come_later_are_named():
    def lr(method, optimizer, loss):
        optimizer.param_groups[0]["lr"] *= 1 + RANK

    def step(method, optimizer, loss):
        method.step += RANK

    def a_weight(method, optimizer, loss):
        with torch.no_grad():
            method.mean[7] += RANK * 1e-9

    def replaced(method, optimizer, loss):
        if RANK:
            method.load_state_dict(method.state_dict(), assign=True)

    refused(r"\['lr'\], which is 0.5 on rank 0 and 1.0 on rank 1", lambda: trained(3, spoil=lr))
    for c in (C, D):
        refused("same .*step.*, which is 1 on rank 0 and 2 on", lambda c=c: trained(3, c, step))
    refused("^DivergedError: .*weights mean", lambda: trained(18, spoil=a_weight))
    refused("replaced .*since hs.distribute", lambda: trained(3, spoil=replaced))


@case
def differences_of_the_loss_are_named():
    def other_items():
        take(*begin(D, items=12 + RANK))

    refused("samples S, which is 4 on rank 0 and 6", lambda: trained(2, samples=4 + 2 * RANK))
    refused("samples S, which is 4 on rank 0 and 6", lambda: trained(2, D, samples=4 + 2 * RANK))
    refused("items N, which is 12 on rank 0 and 13", other_items)
    refused(r"batch \(x\), which is \(12, 3\)", lambda: trained(1, x=X + RANK))
    part = 12 - RANK
    refused(r"batch \(x\)|items to divide by", lambda: trained(1, x=X[:part], y=Y[:part]))
    refused("items to divide by", lambda: trained(1, D, x=X[:part], y=Y[:part]))
    refused(r"batch \(y\)", lambda: trained(1, y=Y.roll(RANK)))


@case
def a_gradient_that_is_not_finite_is_named_with_its_rank():
    def broken():
        method, optimizer, loss = begin(D)
        value = loss(method, X, Y, samples=4)
        (value * (torch.nan if RANK else 1)).backward()
        assert all(p.grad.isnan().all() for p in method.parameters())
        optimizer.step()

    refused("^DivergedError: the gradient of step 0 is not finite on rank 1;", broken)


def outcomes():
    for name, function in CASES.items():
        try:
            function()
            yield name, "passed"
        except BaseException:
            yield name, traceback.format_exc()


if __name__ == "__main__":
    found = {}
    for name, outcome in outcomes():
        found[name] = TOPOLOGY.world.allgather(outcome)
        if RANK == 0:
            sys.stderr.write(f"{name}\n")
    if RANK == 0:
        sys.stdout.write(json.dumps(found))
