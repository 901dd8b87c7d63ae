"""The grid: planned without MPI, then made with it."""

from __future__ import annotations

import itertools
import time

import pytest

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.grid import AXES, plan_grid, share, share_samples


def test_nodes_share_a_batch_and_split_the_data():
    grid = plan_grid(["a", "a", "b", "b"], "node")
    assert grid.groups == ((0, 1), (2, 3))
    assert (grid.data_size, grid.sample_size) == (2, 2)
    assert grid.place(3) == (1, 1, 0)


def test_ranks_placed_round_robin_over_nodes_are_grouped_by_node():
    assert plan_grid(["a", "b", "a", "b"], "node").groups == ((0, 2), (1, 3))
    assert plan_grid(["a", "b", "a", "b"], 2).groups == ((0, 2), (1, 3))


@pytest.mark.parametrize(
    ("samples", "groups"),
    [
        ("world", ((0, 1, 2),)),
        ("none", ((0,), (1,), (2,))),
        (3, ((0, 1, 2),)),
        (1, ((0,), (1,), (2,))),
    ],
)
def test_other_axes(samples, groups):
    assert plan_grid(["a"] * 3, samples).groups == groups


@pytest.mark.parametrize(
    ("nodes", "samples", "numbers"),
    [
        (["a", "a", "b"], "node", ("1", "2")),
        (["a"] * 4, 3, ("3", "4")),
        (["a"], "nodes", ("nodes",)),
        (["a"], 0, ("0",)),
        (["a"], True, ("True",)),
        ([], "node", ("0",)),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_with_both_numbers(nodes, samples, numbers):
    with pytest.raises(UsageError) as e:
        plan_grid(nodes, samples)
    assert all(n in str(e.value) for n in numbers)


def test_every_rank_of_a_large_grid_has_one_place():
    nodes = [f"n{i}" for i in range(2500) for _ in range(4)]
    began = time.process_time()
    grid = plan_grid(nodes)
    assert time.process_time() - began < 1
    assert sorted(r for g in grid.groups for r in g) == list(range(10_000))
    assert grid.place(9_999) == (2499, 3, 0)


@pytest.mark.parametrize(
    ("samples", "model", "sizes"),
    [("node", 2, (2, 2, 2)), ("node", 4, (2, 1, 4)), ("none", 2, (4, 1, 2)), (2, 1, (4, 2, 1)),
     (2, 2, (2, 2, 2)), ("world", 2, (1, 4, 2)), ("world", 8, (1, 1, 8))],
)  # fmt: skip
def test_the_model_axis_is_innermost(samples, model, sizes):
    """Ranks are dealt round robin to two nodes, so neighbours are not on one node."""
    nodes = ["a", "b"] * 4
    grid = plan_grid(nodes, samples, model)
    assert tuple(grid.size(axis) for axis in AXES) == sizes
    assert grid.size("world") == 8
    places = [grid.place(rank) for rank in range(8)]
    assert sorted(places) == sorted(itertools.product(*map(range, sizes)))
    for rank, place in enumerate(places):
        for i, axis in enumerate(AXES):
            along = grid.along(axis, rank)
            assert [places[r][i] for r in along] == list(range(sizes[i]))
            assert {places[r][:i] + places[r][i + 1 :] for r in along} == {
                place[:i] + place[i + 1 :]
            }
        if model <= 4:  # a model group is on one node
            assert len({nodes[r] for r in grid.along("model", rank)}) == 1


@pytest.mark.parametrize(
    ("nodes", "samples", "model", "message"),
    [
        (["a"] * 3, "world", 2, "parallel.model = 2 does not divide the 3 ranks"),
        (["a"] * 3 + ["b"] * 3, "node", 2, "model = 2 does not divide the 3 ranks of node a"),
        (["a"] * 4 + ["b"] * 4, "node", 8, 'model = 8 is more than the 4 ranks of node a.*"world"'),
        (["a"] * 6, 2, 2, "samples = 2 groups of 2 model ranks does not divide .* 6"),
        (["a"], "node", 0, "got 0"),
        (["a"], "node", True, "got True"),
    ],
)
def test_a_model_axis_that_does_not_fit_is_refused(nodes, samples, model, message):
    with pytest.raises(UsageError, match=message):
        plan_grid(nodes, samples, model)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 16])
def test_shares_cover_and_are_nearly_equal(parts):
    shares = [share(16, parts, i) for i in range(parts)]
    assert [s for r in shares for s in r] == list(range(16))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_samples_than_ranks_is_refused():
    with pytest.raises(UsageError, match=r"S = 2 .* P = 3"):
        share_samples(2, 3, 0)


@pytest.mark.mpi(ranks=[1, 3, 4])
def test_communicators_follow_the_plan(mpi_ranks, comm):
    from hpcsamp.collectives import choose
    from hpcsamp.grid import init

    topology = init(2 if mpi_ranks == 4 else "node")
    assert topology.size == mpi_ranks
    expected = plan_grid(["here"] * mpi_ranks, 2 if mpi_ranks == 4 else "node")
    assert topology.grid == expected
    assert tuple(axis.rank for axis in topology.axes) == expected.place(comm.Get_rank())
    assert topology.sample_comm.allgather(comm.Get_rank()) == list(
        expected.groups[topology.data_rank]
    )
    assert topology.data_comm.Get_size() == topology.data_size
    if mpi_ranks == 4:
        of_model = init(1, model=2)
        for axis in of_model.axes:
            along = of_model.grid.along(axis.name, comm.Get_rank())
            assert tuple(axis.comm.allgather(comm.Get_rank())) == along
        assert of_model.describe().startswith("4 ranks = 2 batches x 1 sample rank x 2 model ranks")
        chosen = choose(of_model, "mpi")
        found = (chosen.data_size, chosen.sample_size, chosen.model_size)
        assert found == (of_model.data_size, of_model.sample_size, 2)
        assert chosen.model_rank == of_model.model_rank


@pytest.mark.mpi(ranks=3)
def test_ranks_fail_together_with_the_same_line(comm, monkeypatch):
    from hpcsamp import errors
    from hpcsamp.grid import together

    def fail_on_rank_1():
        with together(comm):
            if comm.Get_rank() == 1:
                raise UsageError("only rank 1 saw this")

    with pytest.raises(HpcsampError) as e:
        fail_on_rank_1()
    assert str(e.value) == "only rank 1 saw this"
    assert isinstance(e.value, UsageError)
    assert e.value.agreed

    class ApartError(UsageError):
        """An error that holds more than its message."""

        def __init__(self, text, apart):
            super().__init__(text)
            self.apart = apart

    monkeypatch.setattr(errors, "ApartError", ApartError, raising=False)
    ApartError.__module__, ApartError.__qualname__ = "hpcsamp.errors", "ApartError"

    def fail_on_rank_2():
        with together(comm):
            if comm.Get_rank() == 2:
                raise ApartError("too far", 0.5)

    with pytest.raises(ApartError, match="too far") as e:
        fail_on_rank_2()
    assert e.value.apart == 0.5
    with together(comm):  # and go on together
        pass
