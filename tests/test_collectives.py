"""Transports: sums, maxima, gathers, the gradient, and Horovod's settings."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from hpcsamp.collectives import Alone, FlatGradient, distribute
from hpcsamp.collectives.horovod import LONGEST_CYCLE, SHORTEST_CYCLE, cycle_time
from hpcsamp.losses import ELBO, Categorical, PredictiveNLL
from hpcsamp.methods import Ensemble, MCDropout, MeanField


def test_cycle_time_grows_with_the_step_within_bounds():
    assert cycle_time(0.0) == SHORTEST_CYCLE
    assert cycle_time(1e9) == LONGEST_CYCLE
    assert SHORTEST_CYCLE < cycle_time(0.01) < cycle_time(1.0) < LONGEST_CYCLE


def test_the_flat_gradient_is_what_autograd_writes():
    a, b = (torch.nn.Parameter(torch.ones(n)) for n in (2, 3))
    gradient = FlatGradient([a, b])
    (a.sum() + 2 * b.sum()).backward()
    assert gradient.collect().tolist() == [1, 1, 2, 2, 2]
    a.grad, b.grad = torch.full((2,), 5.0), None  # somebody replaced them
    assert gradient.collect().tolist() == [5, 5, 0, 0, 0]
    gradient.zero()
    assert a.grad.tolist() == [0, 0]


def test_a_distributed_optimizer_clips_the_whole_gradient_and_counts_steps():
    class Counter(MCDropout):
        told = 0

        def after_step(self):
            self.told = self.step

    counter = Counter(torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Linear(2, 1, bias=False)))
    (p,) = counter.parameters()
    with torch.no_grad():
        p.zero_()
    optimizer = distribute(torch.optim.SGD([p], lr=1.0), Alone(), counter, clip=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)  # still a torch optimiser
    (3 * p[0, 0] + 4 * p[0, 1]).backward()
    optimizer.step()
    schedule.step()
    assert torch.allclose(p.detach()[0], -torch.tensor([0.6, 0.8]), atol=1e-6)
    assert counter.step == counter.told == 1
    optimizer.zero_grad()
    assert p.grad.tolist() == [[0, 0]]


@pytest.mark.mpi(ranks=[2, 4], timeout=60, unit="s")
def test_exchanges(mpi_ranks, comm, monkeypatch):
    from hpcsamp.collectives import choose
    from hpcsamp.grid import init
    from hpcsamp.names import TRANSPORTS

    topology = init(2)
    ranks = torch.tensor(topology.grid.groups[topology.data_rank]).double()
    monkeypatch.setitem(TRANSPORTS._places, "trivial", "trivial_transport:Trivial")
    for name in ("mpi", "horovod", "torch", "trivial"):
        c = choose(topology, name)
        assert c.name == name
        mine = torch.full((3,), float(topology.rank)).double().requires_grad_()
        total = c.sum_over_samples(mine)
        assert torch.equal(total.detach(), ranks.sum().expand(3))
        (total * torch.arange(3.0)).sum().backward()
        assert mine.grad.tolist() == [0, 1, 2]  # identity, not a sum over ranks
        assert c.max_over_samples(mine).tolist() == [ranks.max()] * 3
        counts = [1, 2]
        rows = torch.full((counts[topology.sample_rank], 2), float(topology.rank)).requires_grad_()
        gathered = c.gather_over_samples(rows, counts)
        assert gathered[:, 0].tolist() == [ranks[0], ranks[1], ranks[1]]
        gathered.square().sum().backward()
        assert torch.equal(rows.grad, 2 * rows.detach())
        flat = torch.full((5,), float(topology.rank))
        c.reduce_gradient_(flat)
        assert flat.tolist() == [sum(range(mpi_ranks)) / topology.data_size] * 5
        half = torch.ones(3, dtype=torch.bfloat16)
        c.sum_(half, "sample")
        assert half.tolist() == [2, 2, 2]
        part = c.scatter_sum(torch.arange(3.0), counts, "sample")
        assert part.tolist() == [[0.0], [2.0, 4.0]][topology.sample_rank]
        whole = torch.zeros(3)
        whole[1:] = part[-1] if topology.sample_rank else 0
        c.gather_(whole, counts, "sample")
        assert whole.tolist() == [0, 4, 4]
        begun = c.begin_gather(part, counts, "sample")
        assert begun().tolist() == [0, 2, 4]
        numbers = [[(q + 2 * p) % 3 for p in range(2)] for q in range(2)]  # some are 0
        own, place = torch.arange(float(sum(numbers[c.sample_rank]))), c.sample_rank
        got = c.all_to_all(own, numbers, "sample")
        first = [sum(row[:place]) for row in numbers]
        parts = [range(a, a + row[place]) for a, row in zip(first, numbers, strict=True)]
        assert got.tolist() == [float(k) for part in parts for k in part]
        assert c.total(np.ones(2), "data").tolist() == [topology.data_size] * 2
        assert c.tell(c.place("world"), "world") == list(range(mpi_ranks))
        whole.fill_(float(topology.rank))
        c.copy_first_(whole, "data")
        assert whole.tolist() == [topology.data_comm.allgather(topology.rank)[0]] * 3
        train(topology, c)


def train(topology, c):
    """Two steps on any grid are those of one process."""
    weights = []
    for exchange, own in ((c, topology.data_rank), (Alone(), None)):
        torch.manual_seed(1)
        method = MeanField(nn.Linear(3, 2).double(), seed=1)
        optimizer = distribute(torch.optim.SGD(method.parameters(), 0.1), exchange, method)
        loss = ELBO(PredictiveNLL(Categorical()), 8, exchange)
        x, y = torch.arange(24.0).sin().double().view(8, 3), torch.arange(8) % 2
        size = 8 if own is None else 8 // topology.data_size
        rows = slice((own or 0) * size, ((own or 0) + 1) * size)
        for _ in range(2):
            loss(method, x[rows], y[rows], samples=5).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(method.mean.detach())
    assert torch.allclose(*weights, rtol=1e-12)


@pytest.mark.mpi(ranks=2, timeout=60, unit="s")
def test_without_horovod_auto_says_so_and_uses_mpi(comm, monkeypatch, capfd):
    from hpcsamp.collectives import choose
    from hpcsamp.errors import UsageError
    from hpcsamp.grid import init

    topology = init()
    if comm.Get_rank() == 1:  # broken on one rank is broken for all
        monkeypatch.setitem(sys.modules, "horovod", None)
        monkeypatch.setitem(sys.modules, "horovod.torch", None)
    assert choose(topology, "auto").name == "mpi"
    said = capfd.readouterr().err
    assert said.count("Horovod cannot be used") == (1 if comm.Get_rank() == 0 else 0)
    assert len(said.strip().splitlines()) <= 1
    with pytest.raises(UsageError, match="Horovod cannot be used"):
        choose(topology, "horovod")
    with pytest.raises(UsageError, match="choose from auto, horovod, mpi, torch"):
        choose(topology, "nccl")


@pytest.mark.mpi(ranks=2, timeout=60, unit="s")
def test_small_gradients_go_by_mpi_and_large_ones_by_horovod(comm):
    from hpcsamp.collectives import SMALL, choose
    from hpcsamp.grid import init

    topology = init()
    auto = choose(topology, "auto")
    small, large = torch.ones(8), torch.ones(SMALL // 4)
    auto.reduce_gradient_(small)
    assert auto.settings()["cycle_milliseconds"] is None  # Horovod was not needed yet
    auto.reduce_gradient_(large)
    assert auto.settings()["cycle_milliseconds"] > 0
    assert small.tolist() == [2] * 8
    assert large.eq(2).all()
    assert choose(topology, "horovod").settings()["smaller_by_mpi_bytes"] == 0


@pytest.mark.mpi(ranks=4, timeout=60, unit="s")
def test_horovod_serves_who_comes_later(comm):
    """It starts once in a process, with the process sets of who came first."""
    from hpcsamp.collectives import choose
    from hpcsamp.grid import init

    for split in (2, 2, 1, "world"):
        topology = init(split)
        c = choose(topology, "horovod")
        of_data, of_all = (torch.full((3,), float(topology.rank)) for _ in range(2))
        c.sum_gradient_(of_data, "data")
        c.sum_gradient_(of_all, "world")
        assert of_data.tolist() == [sum(topology.data_comm.allgather(topology.rank))] * 3
        assert of_all.tolist() == [6.0] * 3
        # two data groups are what it was started with, one of all ranks is always there; the
        # groups of one rank each have nothing to exchange
        assert (c._sets["data"] is None) == (split == "world")


@pytest.mark.mpi(ranks=4, timeout=60, unit="s")
def test_a_gradient_of_all_before_one_of_data_groups(comm):
    from hpcsamp.collectives import choose
    from hpcsamp.grid import init

    topology = init(2)
    c = choose(topology, "horovod")
    of_data, of_all = (torch.full((3,), float(topology.rank)) for _ in range(2))
    c.sum_gradient_(of_all, "world")
    c.sum_gradient_(of_data, "data")
    assert of_all.tolist() == [6.0] * 3
    assert of_data.tolist() == [sum(topology.data_comm.allgather(topology.rank))] * 3


@pytest.mark.mpi(ranks=4, timeout=60, unit="s")
def test_horovod_starts_on_all_ranks_though_some_have_little(comm):
    """S = 5 members on two ranks: two rows are less than SMALL, three are more."""
    from hpcsamp.collectives import SMALL, choose
    from hpcsamp.grid import init

    topology = init(2)
    c = choose(topology, "auto")
    own = topology.samples(5)
    method = Ensemble(nn.Linear(SMALL // 10, 1, bias=False), 5, own)
    bytes_of = topology.world.allgather(method.weights.nbytes)
    assert min(bytes_of) < SMALL <= max(bytes_of)
    optimizer = distribute(torch.optim.SGD(method.parameters(), 1.0), c, method)
    before = method.weights.detach().clone()
    (method.weights.sum() * (1 + topology.data_rank)).backward()
    optimizer.step()
    assert c.settings()["cycle_milliseconds"] > 0
    assert torch.allclose(before - method.weights.detach(), torch.tensor(1.5 * 5))


@pytest.mark.mpi(ranks=4, timeout=60, unit="s")
def test_horovod_on_other_ranks_is_refused(comm):
    from hpcsamp.collectives import choose
    from hpcsamp.errors import UsageError
    from hpcsamp.grid import init

    choose(init(), "horovod").sum_gradient_(torch.ones(3), "world")
    half = choose(init(comm=comm.Split(comm.rank // 2)), "horovod")
    with pytest.raises(UsageError, match=r"as rank \d of 4, and cannot be rank \d of 2"):
        half.sum_gradient_(torch.ones(3), "world")
