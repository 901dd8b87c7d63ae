"""The transport of torch.distributed: how ranks meet, time-outs, and threads at the end."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from hpcsamp import serial
from hpcsamp.collectives import rendezvous
from hpcsamp.errors import UsageError

HOST = rendezvous.LOOPBACK


class SecondRank(serial.Comm):
    """A rank that gets from rank 0 what the test says."""

    rank = 1

    def __init__(self, place):
        self.place = place

    def bcast(self, obj, root=0):
        return self.place if obj is None else obj


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(rendezvous, "CONNECT", timedelta(seconds=1))


def test_a_rank_finds_the_store_of_rank_0():
    first = rendezvous.open_store(serial.COMM_WORLD, HOST)
    word = first.get("word").decode()
    second = rendezvous.open_store(SecondRank((HOST, first.port, word)), HOST)
    first.set("greeting", "found")
    assert second.get("greeting") == b"found"


def test_another_store_at_the_address_is_refused(short):
    store = dist.TCPStore(HOST, 0, None, True, wait_for_workers=False)
    store.set("word", "of another job")
    with pytest.raises(UsageError, match=rf"rank 1 on .* a program other than rank 0 at {HOST}"):
        rendezvous.open_store(SecondRank((HOST, store.port, "own")), HOST)
    store.delete_key("word")  # one that is silent
    with pytest.raises(UsageError, match=r"rank 1 on .* cannot connect to rank 0 at"):
        rendezvous.open_store(SecondRank((HOST, store.port, "own")), HOST)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_program_at_the_address_is_refused(short, answer):
    with closing(socket.create_server((HOST, 0))) as server:

        def serve() -> None:
            for _ in range(50):
                try:
                    client = server.accept()[0]
                except OSError:
                    return
                with client:
                    client.recv(1 << 12)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot connect to rank 0 at {HOST}:{port}"):
            rendezvous.open_store(SecondRank((HOST, port, "own")), HOST)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


def test_nobody_at_the_address(short):
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match=f"cannot connect to rank 0 at {HOST}:{port}") as error:
        rendezvous.open_store(SecondRank((HOST, port, "own")), HOST)
    assert "\n" not in str(error.value)
    assert 'parallel.collectives = "mpi"' in str(error.value)


def test_an_address_that_is_not_of_this_machine(short):
    with pytest.raises(UsageError, match=r"rank 0 on .* cannot listen at 192\.0\.2\.1"):
        rendezvous.open_store(serial.COMM_WORLD, "192.0.2.1")


#: Two grids in one process, closed by hand; a third is closed at its end.
THREADS = """
import os, sys, threading
import torch
from hpcsamp.collectives import choose
from hpcsamp.grid import init

count = lambda: len(os.listdir("/proc/self/task"))
first = init("world")
first.world.Barrier()
before = count()
for samples in ("world", 1, "world"):
    topology = init(samples)
    c = choose(topology, "torch")
    x = torch.full((5,), float(topology.rank))
    c.sum_(x, "world")
    assert x.tolist() == [float(sum(range(topology.size)))] * 5
    assert count() > before
    if samples == 1:
        first_one.close()
        c.close()
        assert count() == before, (count(), before)
    first_one = c
assert count() > before
assert threading.active_count() == 1
first.world.Barrier()

import atexit
from hpcsamp.collectives import torch as transport
atexit.unregister(transport._close_all)
atexit.register(lambda: sys.stdout.write(f"threads left: {count() - before}\\n"))
atexit.register(transport._close_all)
"""


def test_no_thread_outlives_the_interpreter(script):
    done = script(2, THREADS, timeout=90)
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["threads left: 0"] * 2
    assert done.err == ""


LATE = """
import time
from datetime import timedelta
import torch
from hpcsamp.collectives import choose, rendezvous, torch as transport
from hpcsamp.grid import init

transport.LONGEST_WAIT = timedelta(seconds=2)
topology = init("world")
c = choose(topology, "torch")
x = torch.ones(1000)
c.sum_(x, "world")
topology.world.Barrier()
if topology.rank == 0:
    time.sleep(600)
c.sum_(x, "world")
"""


def test_a_time_out_names_the_missing_rank_and_ends_the_job(script):
    done = script(3, LATE, timeout=60)
    assert done.code == 1
    (line,) = done.errors
    assert "was not complete within 2 s" in line
    assert "rank 0 of 3 did not take part in it" in line  # it holds the store


@pytest.mark.mpi(ranks=4, timeout=60, unit="s")
def test_exchanges_along_each_axis_are_those_of_mpi(comm):
    from hpcsamp.collectives import choose
    from hpcsamp.grid import OVERS, init

    for model in (1, 2):
        topology = init(2, model=model)
        by_mpi, by_torch = (choose(topology, name) for name in ("mpi", "torch"))
        for over in OVERS:
            size, place = by_mpi.size(over), by_mpi.place(over)
            assert (by_torch.size(over), by_torch.place(over)) == (size, place)
            generator = torch.Generator().manual_seed(topology.rank)
            counts = [r + 1 for r in range(size)]
            for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64):
                x = (torch.randn(sum(counts), 3, generator=generator) * 64).to(dtype)
                own = x[: counts[place]]
                found = []
                for c in (by_mpi, by_torch):
                    y = {name: x.clone() for name in ("sum", "max", "first")}
                    c.sum_(y["sum"], over)
                    c.max_(y["max"], over)
                    c.copy_first_(y["first"], over)
                    y["gather"] = c.gather(own.contiguous(), counts, over)
                    y["part"] = c.scatter_sum(x[:, 0].contiguous(), counts, over)
                    found.append(y)
                for name in found[0]:
                    a, b = (y[name] for y in found)
                    assert a.dtype == b.dtype == dtype
                    near = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.0)
                    torch.testing.assert_close(a, b, rtol=near, atol=near, msg=f"{over} {name}")
