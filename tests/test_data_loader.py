"""The loader: the same items on any grid, each byte read once, faults that all ranks learn of."""

import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import flip_bit, make
from patience import patient

from hpcsamp.data import Dataset, Loader
from hpcsamp.data.integrity import SAMPLED
from hpcsamp.errors import DataError, HpcsampError, UsageError

READERS = ("direct", "serial", "collective")


@pytest.fixture
def scratch(comm):
    """A folder that all ranks share.

    Not ``mpi_tmp_path``: its parent is remembered from an earlier mpirun, and pytest removes the
    folders of all but the last three.
    """
    path = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    yield path
    if comm.rank == 0:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def folder(scratch, comm):
    """Sets of images, of large fields, and of compressed chunks."""
    if comm.rank == 0:
        make(scratch / "images")
        make(scratch / "fields", shape=(7, 30, 4), count=41, classes=None)
        make(scratch / "gzip", compression="gzip")
    comm.Barrier()
    return scratch


def topology_of(samples):
    from hpcsamp.grid import init

    return init(samples, device="cpu")


def pretend_nodes(topology, size):
    """The same grid on nodes of ``size`` ranks."""
    node = topology.world.Split(topology.rank // size, topology.rank)
    return dataclasses.replace(topology, node_comm=node)


def requested():
    """Bytes that this process has asked the kernel for."""
    told = Path("/proc/self/io").read_text().split()
    return int(told[told.index("rchar:") + 1])


def truth(dataset, batch):
    """The batch by serial reads, standardised in float64."""
    x, y = dataset.read(batch.index)
    shape = (-1, *[1] * (x.ndim - 2))
    mean, std = (np.asarray(v).reshape(shape) for v in (dataset.stats.mean, dataset.stats.std))
    return (x - mean) / std, y


def assert_true(dataset, batch):
    x, y = truth(dataset, batch)
    assert np.allclose(batch.x.numpy(), x, rtol=0, atol=1e-12)
    assert np.array_equal(batch.y.numpy(), y)


@pytest.mark.mpi(ranks=[1, 2, 4], timeout=60, unit="s")
def test_every_grid_and_reader_gives_the_serial_batches(mpi_ranks, comm, folder):
    grids = [topology_of("world"), topology_of("none")]
    if comm.size == 4:
        grids += [topology_of(2), pretend_nodes(topology_of("world"), 2)]
    ways = itertools.product(grids, ("images", "fields", "gzip"), (*READERS, "memory"))
    for topology, name, reader in ways:
        if name == "gzip" and reader == "direct":
            continue
        dataset = Dataset.open(folder / name)
        options = {"shuffle": "pool", "reader": reader, "dtype": torch.float64}
        with Loader(folder / name, topology, batch=16, **options) as loader:
            seen = []
            for batch in itertools.islice(loader.epoch(2), 2):  # given up in the middle
                assert_true(dataset, batch)
            for batch in loader.epoch(3, start=loader.steps_per_epoch - 2):
                assert batch.count == 16
                assert len(batch) == 16 // topology.data_size
                assert_true(dataset, batch)
                seen.append(np.concatenate(topology.data_comm.allgather(batch.index)))
                same = topology.sample_comm.allgather(batch.x.numpy().tobytes())
                assert len(set(same)) == 1
        whole = loader.order  # planning alone, without a grid
        for items, step in zip(seen, range(whole.steps - 2, whole.steps), strict=True):
            assert items.tolist() == whole.step(3, step).items.tolist()


@pytest.mark.mpi(ranks=[3], timeout=60, unit="s")
def test_masked_tails_cover_every_item_once(mpi_ranks, comm, folder):
    topology = topology_of("none")
    with Loader(folder / "images", topology, batch=30, shuffle=False, tail="mask") as loader:
        counts, seen = [], []
        for batch in loader:
            counts.append(batch.count)
            seen += batch.index[batch.weight.numpy() > 0].tolist()
    assert counts == [30] * 6 + [23]
    assert sorted(itertools.chain(*comm.allgather(seen))) == list(range(203))


@pytest.mark.mpi(ranks=[4], timeout=60, unit="s")
def test_a_batch_is_requested_from_the_files_once(mpi_ranks, comm, scratch):
    """Bytes as the kernel counts them in all reads of all ranks, not as we do."""
    if comm.rank == 0:
        make(scratch / "set", count=4096, shape=(3, 32, 32), dtype="u1", shard_bytes=2**22)
    comm.Barrier()

    with Loader(scratch / "set", topology_of("world"), batch=256, verify="off") as loader:
        for _ in loader.epoch(0):  # opens the files
            pass
        comm.Barrier()
        before = requested()
        for _ in loader.epoch(1):
            pass
        total = comm.allreduce(requested() - before)
    ratio = total / (loader.steps_per_epoch * 256 * 3072)
    assert 1.0 <= ratio < 1.01


@pytest.mark.mpi(ranks=[1, 4], timeout=60, unit="s")
def test_a_set_in_memory_is_read_once_by_the_job(mpi_ranks, comm, scratch):
    if comm.rank == 0:
        make(scratch / "set", count=4096, shape=(3, 32, 32), dtype="u1", shard_bytes=2**22)
    comm.Barrier()
    topology = topology_of("world")
    if comm.size == 4:
        topology = pretend_nodes(topology, 2)
    options = {"batch": 256, "reader": "memory"}
    Loader(scratch / "set", topology, **options).close()  # imports what it needs
    before = requested()
    with Loader(scratch / "set", topology, **options) as loader:
        for batch in itertools.chain(loader.epoch(0), loader.epoch(1)):
            assert len(batch) == 256
        total = comm.allreduce(requested() - before)
        assert "held in memory, 12.62 MB" in loader.describe()  # images and labels
    with pytest.raises(UsageError, match="closed"):
        next(loader.epoch(0))
    assert 1.0 <= total / (4096 * 3072) < 1.2  # HDF5's own tables are in it


@pytest.mark.mpi(ranks=[2], timeout=60, unit="s")
def test_a_set_for_memory_that_is_damaged_or_too_large(mpi_ranks, comm, folder, monkeypatch):
    from hpcsamp.data import held

    freed = []
    free = held.Window.free
    monkeypatch.setattr(held.Window, "free", lambda window: (freed.append(1), free(window)))
    topology = topology_of("world")
    small = {"batch": 16, "reader": "memory"}
    if comm.rank == 0:
        flip_bit(folder / "images", item=30)
    comm.Barrier()
    kind, message, _ = on_all(comm, lambda: Loader(folder / "images", topology, **small))
    assert kind is DataError
    assert "CRC-32" in message
    assert freed  # its shared memory has been given back
    monkeypatch.setattr(held, "shared_memory_free", lambda: 9999)
    kind, message, _ = on_all(comm, lambda: Loader(folder / "fields", topology, **small))
    assert kind is UsageError
    assert "/dev/shm" in message
    assert "data.reader" in message


@pytest.mark.mpi(ranks=[2], timeout=60, unit="s")
def test_collective_reads_are_collective(mpi_ranks, comm, folder):
    """One rank alone must wait in the read until the other comes."""
    from hpcsamp.data.readers import CollectiveReader

    dataset = Dataset.open(folder / "images")
    reader = CollectiveReader(dataset, comm.Dup())
    x = reader._file(0)["x"]
    out = np.zeros((2, 3, 5, 2), "<f4")
    slab = ((2 * comm.rank, 0, 0, 0), (2, 3, 5, 2))

    def alone(read, seconds):
        """Whether rank 0 comes back from a read that rank 1 begins only then, or after so long."""
        comm.Barrier()
        back = False
        if comm.rank == 0:
            read()
            comm.send(None, 1)
        else:
            end = time.monotonic() + seconds
            while not (back := comm.iprobe(0)) and time.monotonic() < end:
                time.sleep(0.02)
            read()
            comm.recv(source=0)
        return comm.bcast(back, 1)

    assert not alone(lambda: reader._read(x, slab, out, 0), 1.5)
    with x.collective:  # what one would write, and what is not collective
        assert alone(lambda: x[2 * comm.rank : 2 * comm.rank + 2], patient(10))
    assert np.array_equal(out, dataset.read(range(2 * comm.rank, 2 * comm.rank + 2))[0])
    reader.close()


def caught(act):
    """What a rank is told."""
    with pytest.raises(HpcsampError) as error:
        act()
    return type(error.value), str(error.value), error.value.agreed


def on_all(comm, act):
    """What all ranks are told: the same."""
    told = comm.allgather(caught(act))
    assert len(set(told)) == 1, told
    assert told[0][2], "all ranks know, so the job need not be aborted"
    return told[0]


@pytest.mark.mpi(ranks=[1, 4], timeout=60, unit="s")
def test_faults_reach_all_ranks_as_one_line(mpi_ranks, comm, folder):
    grids = [topology_of("world")]
    if comm.size == 4:
        grids += [topology_of(2), pretend_nodes(topology_of("world"), 2)]
    if comm.rank == 0:
        flip_bit(folder / "images", item=30)
        flip_bit(folder / "fields", item=30)
    comm.Barrier()
    for topology, name, reader in itertools.product(grids, ("images", "fields"), READERS):
        begun = time.monotonic()
        loader = Loader(
            folder / name, topology, batch=8, shuffle=False, reader=reader, verify="all"
        )
        steps = []

        def run(loader=loader, steps=steps):
            for batch in loader.epoch(0):
                steps.append(batch.index)

        kind, message, _ = on_all(comm, run)
        assert kind is DataError
        assert "chunk" in message
        assert "CRC-32" in message
        assert len(steps) <= 30 // 8  # nothing of the batch with the bad item is given out
        again, _, _ = on_all(comm, lambda loader=loader: next(loader.epoch(1)))
        assert again is DataError
        loader.close()
        assert time.monotonic() - begun < patient(5)


@pytest.mark.mpi(ranks=[4], timeout=60, unit="s")
def test_one_rank_that_raises_in_its_thread(mpi_ranks, comm, folder):
    for topology, reader in itertools.product((topology_of("world"), topology_of(2)), READERS):
        loader = Loader(folder / "images", topology, batch=8, reader=reader)
        fill = loader._feeds[0]._prefetcher._fill

        def broken(epoch, step, slot, fill=fill):
            fill(epoch, step, slot)
            if comm.rank == 2 and step == 5:
                raise OSError("the disk is gone")

        loader._feeds[0]._prefetcher._fill = broken
        kind, message, _ = on_all(comm, lambda loader=loader: list(loader.epoch(0)))
        assert (kind, message) == (HpcsampError, "OSError: the disk is gone")
        loader.close()


@pytest.mark.mpi(ranks=[2], timeout=60, unit="s")
def test_wrong_use_is_refused_on_all_ranks(mpi_ranks, comm, folder):
    topology, apart = topology_of("world"), topology_of("none")
    kind, message, _ = on_all(comm, lambda: Loader(folder / "images", apart, batch=9))
    assert kind is UsageError
    assert "9 items" in message
    assert "D = 2" in message
    kind, message, _ = on_all(comm, lambda: Loader(folder / "images", topology, batch=999))
    assert "999" in message
    assert "203" in message
    if comm.rank == 0:
        os.truncate(folder / "gzip" / "shard-00001.h5", 3000)
    comm.Barrier()
    kind, message, _ = on_all(comm, lambda: Loader(folder / "gzip", topology, batch=8))
    assert kind is DataError
    assert "shard-00001.h5 has 3000 bytes" in message
    with Loader(folder / "images", topology, batch=8) as loader:
        with pytest.raises(UsageError, match="step 99 of epoch 0 does not exist"):
            loader.epoch(0, 99)
        left = loader.epoch(0)
        next(left)
        next(loader.epoch(1))
        with pytest.raises(UsageError, match="abandoned"):
            next(left)
        with pytest.raises(UsageError, match="same batches"):
            next(loader.epoch(4 + comm.rank))


@pytest.mark.mpi(ranks=[2], timeout=60, unit="s")
def test_full_shared_memory(mpi_ranks, comm, folder, monkeypatch, caplog):
    from hpcsamp.data import ring

    topology = topology_of("world")
    slot = 16 * 3 * 5 * 2 * 4
    monkeypatch.setattr(ring, "shared_memory_free", lambda: int(2.5 * slot))
    with Loader(folder / "images", topology, batch=16, slots=4) as loader:
        assert loader._feeds[0]._ring.slots == 2
        assert len(list(loader)) == 12
    if comm.rank == 0:
        assert "2 batches instead of 4" in caplog.text
    monkeypatch.setattr(ring, "shared_memory_free", lambda: slot)
    kind, message, _ = on_all(comm, lambda: Loader(folder / "images", topology, batch=16))
    assert kind is UsageError
    assert "/dev/shm" in message
    assert "data.batch" in message


def test_verify_sampled_and_off(tmp_path, monkeypatch):
    from hpcsamp.data.shard import ShardReader

    make(tmp_path / "set", count=2000, chunk_bytes=240)
    topology = topology_of("world")
    checked = []
    check = ShardReader.check
    monkeypatch.setattr(
        ShardReader, "check", lambda self, *a: (checked.append(a[:2]), check(self, *a))
    )
    counts = {}
    for verify in ("all", "sampled", "off"):
        with Loader(tmp_path / "set", topology, batch=100, verify=verify) as loader:
            checked.clear()
            for _ in range(2):
                list(loader)
            counts[verify] = len([c for c in checked if c[0] == "x"])
    assert counts["all"] == 1000  # two items a chunk, and each chunk once
    assert 0.3 < counts["sampled"] * SAMPLED / 1000 < 3
    assert counts["off"] == 0


def test_tensors_are_the_users_own(tmp_path):
    """Neither kept nor changed batches disturb later ones."""
    make(tmp_path / "set")
    with Loader(tmp_path / "set", topology_of("world"), batch=8, normalize=False) as loader:
        kept = list(loader.epoch(0))
        copies = [batch.x.clone() for batch in kept]
        for batch in kept:
            batch.x.zero_()
            batch.y.zero_()
        for again, copy in zip(loader.epoch(0), copies, strict=True):
            assert torch.equal(again.x, copy)
            again.x.zero_()
            again.y.zero_()
        assert all(batch.y.max() > 0 for batch in loader.epoch(1))
        assert kept[0].y.dtype == torch.int64


def test_prefetching_hides_the_reads(tmp_path):
    make(tmp_path / "set")
    with Loader(tmp_path / "set", topology_of("world"), batch=8) as loader:
        fill = loader._feeds[0]._prefetcher._fill

        def slow(*a):
            time.sleep(0.01)
            fill(*a)

        loader._feeds[0]._prefetcher._fill = slow
        for number, _ in enumerate(loader.epoch(0)):
            if number == 0:
                before = loader.waited
            time.sleep(0.02)
        assert loader.waited - before < 0.1 * number * 0.01
