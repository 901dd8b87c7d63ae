"""Placements: parts and wholes, gradients, penalties and comparisons against one process."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import hpcsamp
from hpcsamp.collectives import Alone, FlatGradient, choose, updates_of
from hpcsamp.errors import CheckpointError, DivergedError, UsageError
from hpcsamp.grid import init, share
from hpcsamp.grid.gathering import gather_rows
from hpcsamp.grid.placement import REPLICATED, Replicated, SampleRows, Shard
from hpcsamp.grid.runs import Runs, cover
from hpcsamp.methods import Ensemble, MCDropout, MeanField, Method

S, D = 5, 2  # samples, uneven on 2 and 3 ranks; batches of data, of which each rank has one or both


def topology(ranks: int):
    """1 rank, 2, 3, and 2 x 2."""
    return init(2 if ranks == 4 else "world", device="cpu")


def network(sample: int = 0) -> nn.Module:
    torch.manual_seed(sample or 0)
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).double()


def methods(own: range) -> list[Method]:
    return [MeanField(network()), MCDropout(network(), prior_std=1.0), Ensemble(network, S, own)]


# Without MPI ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_parts_of_all_ranks_are_the_whole(ranks):
    everything = Runs.whole((5, 2))
    for kind in (lambda r: SampleRows(share(5, ranks, r), 5), lambda r: Shard(r, ranks)):
        places = [kind(r).place(everything) for r in range(ranks)]
        assert cover(places)
        for r, runs in enumerate(places):
            shape = kind(r).held_of((5, 2), runs.size)
            assert math.prod(shape) == runs.size
            assert kind(r).whole_of(shape, (5, 2)) == (5, 2)
    row = SampleRows(range(1, 3), 5)
    assert held(row, torch.arange(10.0).view(5, 2)).tolist() == [[2, 3], [4, 5]]
    assert REPLICATED.place(everything) is everything


def held(placement, whole):
    """What a rank holds of a whole tensor; numbers without axes are everybody's."""
    if not isinstance(whole, torch.Tensor) or whole.dim() == 0:
        return whole
    runs = placement.place(Runs.whole(whole.shape))
    flat = whole.reshape(-1)
    flat = torch.cat([flat[:0], *(flat[a:b] for a, b in runs.bounds.tolist())])
    return flat.reshape(placement.held_of(whole.shape, runs.size))


def test_rows_of_another_number_of_members_are_refused():
    with pytest.raises(CheckpointError, match="4 rows of state, but 3 members"):
        SampleRows(range(1), 3).place(Runs.whole((4, 2)))


def test_what_optimisers_share_out():
    assert REPLICATED.sharded(1, 3) == Shard(1, 3)
    assert REPLICATED.sharded(0, 1) is REPLICATED
    with pytest.raises(UsageError, match="holds its own members"):
        SampleRows(range(2), 4).sharded(0, 2)


# Against one process ----------------------------------------------------------------------------


def what_is_gathered_is_whole(grid):
    """Rows of any type, more or fewer than ranks, to the bit."""
    p, ranks = grid.sample_rank, grid.sample_size
    kinds = (torch.float64, torch.bfloat16, torch.bool, torch.int64, torch.complex64)
    whole = [torch.randn(S, 3, generator=torch.manual_seed(1)).to(k) for k in kinds]
    whole += [torch.arange(3.0 * S).view(3, S).T, torch.zeros(S, 0), torch.arange(2.0)]
    whole += [torch.arange(S) + torch.tensor(1j).conj()]
    for expected in whole:
        placements = [Shard(p, ranks)]
        if len(expected) == S:
            placements.append(SampleRows(share(S, ranks, p), S))
        for placement in placements:
            found = gather_rows(held(placement, expected), grid.sample_comm)
            if p:
                assert found is None
                continue
            assert found.dtype == expected.dtype
            assert torch.equal(found.view(expected.shape), expected.resolve_conj()), placement


def gradients_and_their_clipping_are_those_of_one_process(grid, sharded):
    """Every sample of every batch of data has its own gradient, which is drawn."""
    c = choose(grid, "mpi")
    own = share(S, c.sample_size, c.sample_rank)
    for mine, serial in zip(methods(own), methods(range(S)), strict=True):
        of_members = isinstance(serial, Ensemble)
        if sharded and of_members:
            with pytest.raises(UsageError, match="no common state to divide"):
                updates_of(mine, c, sharded=True)
            continue
        wanted = {}
        sizes = {n: p.numel() // (S if of_members else 1) for n, p in serial.named_parameters()}
        for n, numel in sizes.items():
            drawn = torch.randn(D, S, numel, generator=torch.manual_seed(len(n))).double()
            wanted[n] = drawn.mean(0) if of_members else drawn.mean(0).sum(0)
            batches = range(D) if grid.data_size == 1 else [grid.data_rank]
            part = drawn[list(batches)].mean(0)[own.start : own.stop]
            p = mine.get_parameter(n)
            p.grad = (part if of_members else part.sum(0)).reshape(p.shape)
        updates = updates_of(mine, c, sharded)
        given = [p.grad for p in updates.parameters]
        gradient = FlatGradient(updates.parameters)
        for p, g in zip(updates.parameters, given, strict=True):
            p.grad = g
        gradient.collect()
        updates.reduce(gradient)
        updates.clip(gradient, 0.5)
        flat = torch.cat([w.reshape(S if of_members else 1, -1) for w in wanted.values()], 1)
        bound = (0.5 / (flat.norm(dim=1) + 1e-6)).clamp(max=1)
        for (n, p), part in zip(mine.named_parameters(), updates.parts, strict=True):
            expected = bound[:, None] * wanted[n].reshape(len(flat), -1)
            expected = held(updates.placement, expected.reshape(serial.get_parameter(n).shape))
            assert torch.allclose(part.grad.reshape(-1), expected.reshape(-1), rtol=1e-12), n
            part.data.copy_(part.grad)
            p.grad = None
        updates.share()
        for n, p in mine.named_parameters():
            expected = (bound[:, None] * wanted[n].reshape(len(flat), -1)).view(
                serial.get_parameter(n).shape
            )
            assert torch.allclose(p, held(mine.placement, expected), rtol=1e-12), n


def shares_of_the_penalty_add_up(grid):
    p, ranks = grid.sample_rank, grid.sample_size
    own = share(S, ranks, p)
    several = [*methods(own), Ensemble(network, S, own, prior_std=2.0)]
    alone = [*methods(range(S)), Ensemble(network, S, prior_std=2.0)]
    for mine, serial in zip(several, alone, strict=True):
        part = mine.penalty(*mine.placement.penalty_share(p, ranks)).item()
        assert grid.sample_comm.allreduce(part) == pytest.approx(serial.penalty().item(), rel=1e-12)


def replicas_are_compared_with_those_that_hold_the_same(grid):
    from hpcsamp.run.health import check_replicas

    own = share(S, grid.sample_size, grid.sample_rank)
    for method in methods(own):
        placement = method.placement
        over = grid.comm(placement.replicas)
        assert len(set(over.allgather(placement.column(grid)))) == 1
        check_replicas(method, grid)
    *everywhere, members = methods(own)
    with torch.no_grad():
        members.weights.add_(1.0 * grid.sample_rank)  # members of their own may differ
    check_replicas(members, grid)
    for method in (*everywhere, members):
        changed = grid.rank == grid.size - 1  # but not from a replica
        with torch.no_grad():
            next(method.parameters()).view(-1)[0] += 1e-14 * changed
        if grid.size == 1 or (method is members and grid.data_size == 1):
            check_replicas(method, grid)  # nobody else has the same
            continue
        with pytest.raises(DivergedError, match=f"rank {grid.size - 1} "):
            check_replicas(method, grid)


@pytest.mark.mpi(ranks=[1, 2, 3, 4], timeout=120, unit="s")
def test_against_one_process(mpi_ranks, comm):
    grid = topology(mpi_ranks)
    what_is_gathered_is_whole(grid)
    gradients_and_their_clipping_are_those_of_one_process(grid, sharded=False)
    gradients_and_their_clipping_are_those_of_one_process(grid, sharded=True)
    shares_of_the_penalty_add_up(grid)
    replicas_are_compared_with_those_that_hold_the_same(grid)


# Nobody else asks -------------------------------------------------------------------------------

ROOT = Path(hpcsamp.__file__).parent
#: What may know the kinds of placement, and rooms in which the words mean something else.
KNOW = {ROOT / "grid/placement.py", ROOT / "collectives/updates.py"}
KINDS = {"Replicated", "SampleRows", "Shard", "Shards", "Shares", "OfRows", "OfShares", "Members"}


def asks(source: str) -> list[int]:
    """Lines that ask whether a method has members, or an optimiser shards."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            names = {getattr(x, "attr", getattr(x, "id", None)) for x in sides}
            nothing = any(isinstance(x, ast.Constant) and x.value is None for x in sides)
            if names & {"placement", "partial"} or (nothing and names & {"members", "shards"}):
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            names = {getattr(x, "attr", getattr(x, "id", None)) for x in ast.walk(node.args[1])}
            if names & KINDS:
                found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "line",
    [
        "x = 1 if method.members is None else 2",
        "if self.shards is not None: pass",
        "isinstance(method.placement, (SampleRows, Shard))",
        "isinstance(method, members.Members)",
        "method.placement == REPLICATED",
    ],
)
def test_a_question_is_seen(line):
    assert asks(line) == [1]


def test_no_other_place_asks_what_is_where():
    files = [p for p in ROOT.rglob("*.py") if p not in KNOW]
    assert {str(p.relative_to(ROOT)): found for p in files if (found := asks(p.read_text()))} == {}


def test_every_placement_says_how_it_is_updated():
    method = MeanField(network())
    for placement in (Replicated(), Shard(0, 1), SampleRows(range(1), 1)):
        method.placement = placement
        assert updates_of(method, Alone()).placement is placement
