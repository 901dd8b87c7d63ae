"""Boxes of items written into one file by all ranks, each its own."""

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from hpcsamp.data.slabs import shape_of, slices
from hpcsamp.grid import init, share
from hpcsamp.prediction.boxes import pieces, stored_bytes
from hpcsamp.prediction.writer import ParallelFile
from hpcsamp.sealing import DamagedError, regions
from hpcsamp.tasks.layout import FileLayout, FileVariable

SHAPE, SLAB, ITEMS = (5, 6, 14), (2, 6, 4), 7


def test_pieces_are_where_hdf5_has_them():
    """Any box of any slabs: written by pieces, read as HDF5 lays its chunks out."""
    generator = np.random.default_rng(3)
    for _ in range(200):
        shape = tuple(generator.integers(1, 7, int(generator.integers(1, 5))).tolist())
        slab = tuple(int(generator.integers(1, n + 1)) for n in shape)
        slab = None if generator.random() < 0.3 else slab
        starts = [int(generator.integers(0, n)) for n in shape]
        ends = [int(generator.integers(a + 1, n + 1)) for a, n in zip(starts, shape, strict=True)]
        box = tuple(zip(starts, ends, strict=True))
        values = generator.integers(1, 99, shape_of(box)).astype("<i2")
        stored = np.zeros(stored_bytes(shape, slab, 2), np.uint8)
        for piece in pieces(shape, slab, box, 2):
            raw = np.ascontiguousarray(values[piece.at]).reshape(-1).view(np.uint8)
            assert len(raw) == piece.count * piece.size
            for i in range(piece.count):
                at = piece.offset + i * piece.stride
                assert not stored[at : at + piece.size].any()
                stored[at : at + piece.size] = raw[i * piece.size : (i + 1) * piece.size]
        full = slab or shape
        grid = [-(-n // w) for n, w in zip(shape, full, strict=True)]
        chunks = stored.view("<i2").reshape(*grid, *full)
        order = [k for i in range(len(shape)) for k in (i, i + len(shape))]
        found = chunks.transpose(order).reshape([g * w for g, w in zip(grid, full, strict=True)])
        truth = np.zeros(found.shape, "<i2")
        truth[slices(box)] = values
        assert np.array_equal(found, truth), (shape, slab, box)


def layout():
    axes = {"channel": SHAPE[0], "latitude": SHAPE[1], "longitude": SHAPE[2]}
    scales = {"index": FileVariable(("index",), "<i8", values=np.arange(ITEMS))}
    scales |= {
        name: FileVariable((name,), "<f8", values=np.arange(n) * 1.5) for name, n in axes.items()
    }
    dims = ("index", *axes)
    return FileLayout(
        scales,
        {
            "mean": FileVariable(dims, "<f4", "K", "forecast", slab=SLAB),
            "std": FileVariable(dims, "<f8"),
            "score": FileVariable(("index",), "<f8"),
        },
        {"task": "regression"},
    )


@pytest.fixture
def scratch(comm):
    path = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    yield path
    if comm.rank == 0:
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.mpi(ranks=[1, 4], timeout=60, unit="s")
def test_ranks_write_boxes_into_one_file(mpi_ranks, comm, scratch):
    """Items by data group, longitudes by model rank, at borders that are not those of slabs."""
    topology = init("none", model=2 if comm.size == 4 else 1, device="cpu")
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(ITEMS, *SHAPE))
    model = topology.axis("model")
    items = np.asarray(share(ITEMS, topology.data_size, topology.data_rank))
    columns = share(SHAPE[2] - 1, model.size, model.rank)
    last = SHAPE[2] if model.rank == model.size - 1 else columns.stop
    box = ((0, SHAPE[0]), (0, SHAPE[1]), (columns.start, last))
    file = ParallelFile(scratch / "p.h5", layout(), topology)
    for name in ("mean", "std"):
        file.write_box(name, items[::-1], truth[(items[::-1], *slices(box))], box)
    if model.rank == 0:
        file.write("score", items, truth[items, 0, 0, 0])
    file.finish()
    if comm.rank:
        return
    assert regions.check(scratch / "p.h5")
    with h5py.File(scratch / "p.h5") as f:
        assert f["mean"].chunks == (1, *SLAB)
        assert np.array_equal(f["mean"][()], truth.astype("<f4"))
        assert np.array_equal(f["std"][()], truth)
        assert np.array_equal(f["score"][()], truth[:, 0, 0, 0])
    with xarray.open_dataset(scratch / "p.h5", engine="h5netcdf") as opened:
        assert np.array_equal(opened["mean"].values, truth.astype("<f4"))
        assert opened["mean"].dims == ("index", "channel", "latitude", "longitude")
    with (scratch / "p.h5").open("r+b") as f:
        raw = f.read()
        f.seek(raw.index(truth[3, 2, 4, 9:11].astype("<f4").tobytes()))
        f.write(b"\xff")
    with pytest.raises(DamagedError, match="part at byte"):
        regions.check(scratch / "p.h5")


@pytest.mark.mpi(ranks=[1], timeout=60, unit="s")
def test_whole_items_of_an_array_in_slabs(mpi_ranks, comm, scratch):
    """What writes items and parts of their first axis needs to know of no slabs."""
    truth = np.random.default_rng(2).normal(size=(ITEMS, *SHAPE))
    file = ParallelFile(scratch / "p.h5", layout(), init("world", device="cpu"))
    for name in ("mean", "std"):
        file.write(name, np.arange(4), truth[:4])
        file.write(name, np.arange(4, ITEMS), truth[4:, :3], slice(0, 3))
        file.write(name, np.arange(4, ITEMS), truth[4:, 3:], slice(3, 5))
    file.write("score", np.arange(ITEMS), truth[:, 0, 0, 0])
    file.finish()
    with h5py.File(scratch / "p.h5") as f:
        assert np.array_equal(f["mean"][()], truth.astype("<f4"))
        assert np.array_equal(f["std"][()], truth)
