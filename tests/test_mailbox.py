"""Exchanges of model ranks through shared memory: the same numbers as by MPI, limits, cleanup."""

from __future__ import annotations

import pytest
import torch
from layer_cases import IN, mixer, numbers

from hpcsamp import layers
from hpcsamp.errors import HpcsampError
from hpcsamp.layers import group, mailbox
from hpcsamp.layers.exchange import gather, scatter_sum, total
from hpcsamp.layers.halo import halo

MEMORY = "model ranks exchange through shared memory"
MESSAGES = "model ranks exchange by MPI"


@pytest.mark.mpi(ranks=[2, 4, 8], timeout=300, unit="s")
def test_exchanges_through_shared_memory(mpi_ranks, comm, monkeypatch, capfd):
    near = layers.ModelAxis(comm)
    with monkeypatch.context() as patch:
        patch.setattr(group, "on_one_node", lambda comm: False)
        far = layers.ModelAxis(comm)
    assert (near.describe(), far.describe()) == (MEMORY, MESSAGES)
    assert near.describe("cuda") == MESSAGES
    assert layers.ALONE.describe() == ""
    for items in (1, 3, 2):  # slots grow on the way
        found, truth = passes(near, items), passes(far, items)
        assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))
    assert (near.counted.exchanges, near.counted.bytes) == (
        far.counted.exchanges, far.counted.bytes,
    )  # fmt: skip
    passes_are_broken_off(near)
    slots_are_written_again(near)
    if mpi_ranks == 4:
        two_nodes(comm, monkeypatch, truth)
    small_memory(comm, monkeypatch, capfd, truth)
    far.free()
    near.free()


def passes(axis, items):
    """Outputs and gradients of a split network."""
    with layers.along(axis):
        network = mixer()
    x = network.input_part(IN).cut(numbers(items, *IN)).clone().requires_grad_()
    y = network(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in network.parameters())]


def passes_are_broken_off(axis):
    """Messages of an aborted pass are not mistaken for later ones."""
    over = axis.channels
    for _ in range(2 * mailbox.SLOTS):
        begun = over.begin(numbers(3), (3,))
        begun.receive((3,), over.others[0])
        begun.send(numbers(3, seed=1), *over.others)
    one = numbers(2, seed=over.rank)
    assert torch.equal(gather(one, -1, over), torch.cat(over.comm.allgather(one)))


def slots_are_written_again(axis):
    """Ranks that are early neither overwrite what is read nor wait for ever."""
    over = axis.channels
    for turn in range(3 * mailbox.SLOTS):
        mine = numbers(over.size, seed=turn + over.rank)
        everyone = over.comm.allgather(mine)
        assert torch.equal(total(mine, over), sum(everyone[1:], everyone[0]))
        assert torch.equal(gather(mine, -1, over), torch.cat(everyone))
        torch.testing.assert_close(
            scatter_sum(mine, -1, over)[0], sum(one[over.rank] for one in everyone)
        )
        left, right = (everyone[(over.rank + step) % over.size] for step in (-1, 1))
        truth = torch.cat([left[-1:], mine, right[:1]])
        assert torch.equal(halo(mine, -1, 1, 1, over), truth)


def two_nodes(comm, monkeypatch, truth):
    """Ranks 0 and 1 on one, 2 and 3 on the other: space lies over both."""
    own = comm.Get_rank() // 2
    with monkeypatch.context() as patch:
        patch.setattr(group, "on_one_node", lambda comm: len(set(comm.allgather(own))) == 1)
        axis = layers.ModelAxis(comm)
    told = f"{MESSAGES} over space, through shared memory over channels"
    assert axis.describe() == told
    assert all(torch.equal(a, b) for a, b in zip(passes(axis, 2), truth, strict=True))
    axis.free()


def small_memory(comm, monkeypatch, capfd, truth):
    """Exchanges too large for the node's shared memory go by MPI, after one line per group."""
    axis = layers.ModelAxis(comm)
    room = mailbox.KEPT_FREE + 2_000_000
    if comm.Get_rank() % 2:
        room = mailbox.KEPT_FREE + 120_000  # the least of a group counts
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(mailbox, "shared_memory_free", lambda: room)
        assert all(torch.equal(a, b) for a, b in zip(passes(axis, 2), truth, strict=True))
    assert axis.channels.mailbox.full
    full = [over.mailbox.full for over in (axis.space, axis.channels) if over.size > 1]
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hpcsamp:")]
    leads = [over.rank == 0 for over in (axis.space, axis.channels) if over.size > 1]
    assert len(told) == sum(a and b for a, b in zip(full, leads, strict=True))
    assert all("go through MPI" in line and "/dev/shm" in line for line in told)
    axis.free()


CODE = """
import torch, hpcsamp as hs
from hpcsamp import layers
from hpcsamp.layers import group
axis = layers.ModelAxis.of(hs.init(1, model=2).axis("model"))
assert axis.describe().endswith("shared memory")
with layers.along(axis):
    layer = layers.Linear(4, 4)
x = torch.ones(1, 2)
layer(x)
if axis.rank:
    {}
for _ in range(3):
    layer(x).sum().backward()
"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("group.SharedExchange._send = lambda *_: 1 / 0", "division by zero"),
        ("x = torch.ones(5000, 2)", "networks or inputs differ"),
        ("x = x.double(); layer.double()", "networks or inputs differ"),
    ],
)
def test_a_fault_within_an_exchange_ends_the_job(fault, told, script):
    done = script(2, CODE.format(fault), timeout=60)
    assert done.code != 0
    assert told in done.err


def test_a_message_of_another_length_is_refused():
    over = layers.imagined(2).channels
    with pytest.raises(HpcsampError, match="expected 8 bytes from model rank 1, but got 16"):
        over.begin(numbers(1), (1,))._check(1, 16, 8)
