"""Parts of items: slabs on disk, boxes that model ranks read, every byte once."""

import itertools
import json
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import flip_bit, make
from test_data_loader import on_all, pretend_nodes, requested

from hpcsamp.config import AugmentSection
from hpcsamp.data import Dataset, Loader
from hpcsamp.data.augment import Augmentation
from hpcsamp.data.cuts import Cutter
from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.parts import parts_of
from hpcsamp.data.read_plan import ChunkTable, part_of
from hpcsamp.data.readers import DirectReader, SerialReader
from hpcsamp.data.slabs import choose_slab, grid_of, overlapping, shape_of, slab_box, slices
from hpcsamp.data.verify import verify
from hpcsamp.errors import DataError, UsageError
from hpcsamp.grid import init, one_process, share
from hpcsamp.grid.parts import Part
from hpcsamp.serial import COMM_SELF

SETS = {
    "small items": {"shape": (3, 5, 4)},
    "rows": {"shape": (7, 30, 4), "count": 41},
    "slabs": {"shape": (7, 30, 5), "count": 41, "slabs": (3, 7, 2)},
    "slabs of rows": {"shape": (9, 24), "count": 41, "slabs": "2x24"},
    "compressed": {"shape": (7, 30, 5), "count": 41, "slabs": (3, 30, 2), "compression": "gzip"},
    "vectors": {"shape": (50,), "dtype": "<f8", "slabs": (8,)},
}


@pytest.fixture
def scratch(comm):
    """A folder that all ranks share."""
    path = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    yield path
    if comm.rank == 0:
        shutil.rmtree(path, ignore_errors=True)


def random_box(generator, shape):
    starts = [int(generator.integers(0, n)) for n in shape]
    return tuple(
        (a, int(generator.integers(a + 1, n + 1))) for a, n in zip(starts, shape, strict=True)
    )


def test_slabs_are_of_a_useful_size_and_end_where_model_ranks_do():
    aim = 2 * 2**20
    for shape in [(72, 720, 1440), (69, 721, 1440), (1, 5000, 5000), (10**7,), (2, 3, 900, 900)]:
        slab = choose_slab(shape, 4, aim)
        assert aim / 2 <= np.prod(slab) * 4 <= 2 * aim, (shape, slab)
        grid = grid_of(shape, slab)
        cells = np.zeros([min(n, 64) for n in grid], int)  # the boxes tile the item
        assert cells.size or shape
        assert slab_box(shape, slab, int(np.prod(grid)) - 1)[-1][1] == shape[-1]
    assert choose_slab((72, 720, 1440), 4, aim) == (6, 720, 120)
    assert choose_slab((3, 32, 32), 4, aim) == (3, 32, 32)
    seen = np.zeros((7, 5), int)
    for number in range(6):
        seen[slices(slab_box((7, 5), (3, 3), number))] += 1
    assert (seen == 1).all()
    assert overlapping((7, 5), (3, 3), ((2, 4), (3, 5))) == [1, 3]


@pytest.mark.parametrize("name", SETS)
def test_readers_fetch_any_box(name, tmp_path):
    items = make(tmp_path / "set", **SETS[name])["x"]
    dataset, generator = Dataset.open(tmp_path / "set"), np.random.default_rng(7)
    readers = [SerialReader(dataset)]
    if dataset.manifest.arrays["x"].compression is None:
        readers.append(DirectReader(dataset))
    for _ in range(12):
        box = random_box(generator, items.shape[1:])
        table = ChunkTable(dataset, "x", box)
        wanted = generator.integers(0, dataset.count, int(generator.integers(1, 9)))
        truth = items[(wanted, *slices(box))]
        for ranks, reader in itertools.product((1, 2, 3, 8), readers):
            out = np.full(truth.nbytes, 99, np.uint8)
            shares = [part_of(table, len(wanted), ranks, r) for r in range(ranks)]
            assert [r for s in shares for r in s] == list(range(len(wanted) * table.rows))
            for own in shares:
                reader.fetch(table, wanted, own, out)
            assert np.array_equal(table.placed(out), truth), (box, ranks, reader.name)
        assert np.array_equal(dataset.read_array("x", wanted, box), truth)


def test_boxes_of_slabs_are_read_to_the_byte_and_of_others_cheaply():
    slabs = ArraySpec.plan((72, 720, 1440), "<f4").in_slabs()
    for box in (((0, 36), (0, 720), (0, 720)), ((18, 36), (0, 720), (720, 1440))):
        assert Cutter(slabs, box).ratio == 1
        assert len(Cutter(slabs, box).starts) == len(range(*box[0], 6))
    assert Cutter(slabs, ((0, 72), (0, 720), (0, 721))).ratio < 720 / 721 * 1.2
    rows = ArraySpec.plan((72, 720, 1440), "<f4")  # cut along the first axis only
    assert Cutter(rows, ((3, 40), (0, 720), (0, 1440))).ratio == 1
    assert Cutter(rows, ((3, 40), (100, 130), (0, 1440))).ratio == 1  # what is between is skipped
    assert 1.9 < Cutter(rows, ((0, 72), (0, 720), (0, 720))).ratio < 2


def test_the_same_file_on_any_ranks_and_in_old_readers(tmp_path):
    """Sets without slabs are written as before, and are of the version before."""
    make(tmp_path / "old", count=40)
    make(tmp_path / "new", **SETS["slabs"])
    told = json.loads((tmp_path / "old" / "manifest.json").read_text())
    assert told["schema_version"] == 2
    assert all("slab" not in spec for spec in told["arrays"].values())
    assert Dataset.open(tmp_path / "new").manifest.schema_version == 4
    runs = Dataset.open(tmp_path / "new").shards[0].chunks["x"]
    assert len(runs.array()) == runs.count


@pytest.mark.mpi(ranks=[3], timeout=60, unit="s")
def test_ranks_write_the_bytes_of_one(mpi_ranks, comm, scratch):
    make(scratch / "several", **SETS["slabs"], shard_bytes=20_000, comm=comm)
    if comm.rank == 0:
        make(scratch / "alone", **SETS["slabs"], shard_bytes=20_000)
        files = sorted(p.name for p in (scratch / "alone").glob("*.h5"))
        assert len(files) > 3
        for name in files:
            ours, theirs = (scratch / d / name for d in ("several", "alone"))
            assert ours.read_bytes() == theirs.read_bytes(), name


def test_a_flipped_byte_names_item_and_slab(tmp_path):
    make(tmp_path / "set", **SETS["slabs"])
    file, chunk = flip_bit(tmp_path / "set", item=17)
    dataset = Dataset.open(tmp_path / "set")
    found = verify(tmp_path / "set", dataset.manifest, COMM_SELF).bad
    assert len(found) == 1
    assert f"{file}: chunk {chunk} of x (item 17 of train, slab [0:3, 0:7, 0:2])" in found[0]
    with pytest.raises(DataError, match=r"item 17 of train, slab \[0:3, 0:7, 0:2\]\) is corrupt"):
        dataset.read([17])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (((0, 3), (0, 30)), ["part of x", "2 axes", "(7, 30, 5)"]),
        (((0, 3), (5, 31), (0, 5)), ["5:31", "axis 1", "30"]),
        (((3, 2), (0, 30), (0, 5)), ["3:2", "axis 0"]),
        (((-1, 2), (0, 30), (0, 5)), ["-1:2", "axis 0"]),
        (("ab", None, None), ["'ab'"]),
        ({"z": None}, ["part of 'z'", "x, y"]),
        (type("Part", (), {"shape": (8, 30, 5), "box": ()})(), ["(8, 30, 5)", "(7, 30, 5)"]),
    ],
)
def test_boxes_that_do_not_fit_are_refused(part, words, tmp_path):
    make(tmp_path / "set", **SETS["slabs"])
    with pytest.raises(UsageError) as error:
        Loader(tmp_path / "set", one_process("cpu"), batch=4, part=part)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("slabs", ["6x7", (0, 3, 2), "many", ()])
def test_slabs_that_do_not_fit_are_refused(slabs, tmp_path):
    with pytest.raises(UsageError, match="slabs"):
        make(tmp_path / "set", shape=(7, 30, 5), slabs=slabs)
    assert not (tmp_path / "set").exists()


def boxes_for(model, size, shapes):
    """Parts of a model rank: columns of x with a halo, channels of y; and the parts without it."""
    x, y = shapes
    own = share(x[-1], size, model)
    halo = (max(own.start - 1, 0), min(own.stop + 1, x[-1]))
    rows = share(y[0], size, model)
    exact = {
        "x": (*((0, n) for n in x[:-1]), (own.start, own.stop)),
        "y": ((rows.start, rows.stop), (0, y[1])),
    }
    return exact, {**exact, "x": (*exact["x"][:-1], halo)}


def grids(comm):
    """Topologies with two model ranks, on one node and on several."""
    found = [init("world", model=2, device="cpu")]
    if comm.size == 4:
        found.append(init("none", model=2, device="cpu"))
        found.append(pretend_nodes(found[0], 2))
        found.append(pretend_nodes(found[0], 1))
    return found


@pytest.mark.mpi(ranks=[2, 4, 6], timeout=90, unit="s")
def test_joined_parts_are_the_batches_of_one_rank(mpi_ranks, comm, scratch):
    if comm.rank == 0:
        make(scratch / "slabs", shape=(3, 8, 12), count=67, classes=None, slabs="2x8x3")
        make(scratch / "gzip", shape=(5, 12), count=67, classes=None, slabs="2x5",
             compression="gzip")  # fmt: skip
        make(scratch / "rows", shape=(9, 12), count=67, classes=None)
    comm.Barrier()
    options = {"batch": 14, "tail": "mask", "shuffle": "pool", "dtype": torch.float64}
    truth = {}
    for name in ("slabs", "gzip", "rows"):
        with Loader(scratch / name, one_process("cpu"), **options) as alone:
            start = alone.steps_per_epoch - 2  # the last one is padded
            truth[name] = list(alone.epoch(3, start))
    # with y whole, the ranks of a data group share it beside their own parts of x
    some = [("slabs", "direct", True), ("slabs", "collective", True), ("slabs", "direct", False)]
    more = [("slabs", "serial", True), ("slabs", "memory", True), ("rows", "direct", True),
            ("rows", "collective", False), ("gzip", "auto", True)]  # fmt: skip
    for number, topology in enumerate(grids(comm)):
        model = topology.axis("model")
        for name, reader, both in some + more * (number == 0 and comm.size == 4):
            dataset = Dataset.open(scratch / name)
            shapes = dataset.x_shape, dataset.y_shape
            exact, halo = boxes_for(model.rank, model.size, shapes)
            boxes = halo if both else {"x": exact["x"]}
            own = {n: tuple((0, k) for k in s) for n, s in zip("xy", shapes, strict=True)} | boxes
            mine = share(14, topology.data_size, topology.data_rank)
            mine = slice(mine.start, mine.stop)
            with Loader(scratch / name, topology, reader=reader, part=boxes, **options) as loader:
                for batch, whole in zip(loader.epoch(3, start), truth[name], strict=True):
                    assert batch.index.tolist() == whole.index[mine].tolist()
                    assert torch.equal(batch.weight, whole.weight[mine])
                    assert torch.equal(batch.x, whole.x[(mine, *slices(own["x"]))]), (name, reader)
                    assert torch.equal(batch.y, whole.y[(mine, *slices(own["y"]))])


@pytest.mark.mpi(ranks=[2, 4], timeout=90, unit="s")
def test_every_byte_is_read_once_over_samples_and_model(mpi_ranks, comm, scratch):
    """Bytes as the kernel counts them, of aligned boxes, of halos, and of what all need whole."""
    shape, batch = (8, 64, 96), 16
    if comm.rank == 0:
        make(scratch / "set", shape=shape, count=96, slabs="4x64x24", shard_bytes=2**21)
    comm.Barrier()
    item = int(np.prod(shape)) * 4
    for topology in grids(comm)[:2]:
        model = topology.axis("model")
        half = [(0, 48), (48, 96)][model.rank]
        wide = [(0, 56), (40, 96)][model.rank]
        # of a halo the slabs that overlap it are read: 72 columns for 56
        for columns, amount in ((half, 1.0), (wide, 144 / 96), ((0, 96), 1.0)):
            box = ((0, 8), (0, 64), columns)
            read = []
            checked = "off" if columns == wide else "all"  # those of its border are read again
            options = {"batch": batch, "verify": checked}
            with Loader(scratch / "set", topology, part=box, **options) as loader:
                for epoch in range(2):
                    comm.Barrier()
                    before = requested()
                    for _ in loader.epoch(epoch):
                        pass
                    read.append(requested() - before)
                total = loader.steps_per_epoch * batch * item * amount
            second = np.asarray(comm.allgather(read[1]))
            assert 0.999 <= second.sum() / total < 1.01, (columns, second)
            assert second.max() <= 1.02 * total / comm.size  # 1/(D P M) on every rank
            if checked == "all":  # of slabs that a box holds whole, checks read nothing again
                assert comm.allreduce(read[0]) < 1.05 * total + 2**20


@pytest.mark.mpi(ranks=[4], timeout=60, unit="s")
def test_a_corrupt_slab_of_one_model_rank_is_told_by_all(mpi_ranks, comm, scratch):
    if comm.rank == 0:
        make(scratch / "set", shape=(4, 30, 6), count=40, slabs="4x30x2")
        dataset = Dataset.open(scratch / "set")
        entry = next(s for s in dataset.shards if s.first + s.count > 2)
        with (scratch / "set" / entry.file).open("r+b") as f:  # the last slab of item 2
            f.seek(int(entry.chunks["x"].array()[(2 - entry.first) * 3 + 2]))
            f.write(b"\xff")
    comm.Barrier()
    for topology, reader in itertools.product(grids(comm), ("direct", "collective")):
        model = topology.axis("model")
        box = (None, None, [(0, 4), (4, 6)][model.rank])
        options = {"batch": 4, "shuffle": False, "reader": reader}
        loader = Loader(scratch / "set", topology, part=box, **options)
        kind, message, _ = on_all(comm, lambda loader=loader: list(loader.epoch(0)))
        assert kind is DataError
        assert "item 2 of train, slab [0:4, 0:30, 4:6]) is corrupt" in message
        loader.close()
    topology = grids(comm)[0]
    box = (None, None, (comm.rank % 3, 6))  # other parts at the same place of the model axis
    with pytest.raises(UsageError, match=r"rank \d needs .* must have the same part"):
        Loader(scratch / "set", topology, batch=4, part=box)


def test_what_reads_more_is_told_once(tmp_path, caplog):
    make(tmp_path / "set", shape=(4, 300, 60), count=40)
    with caplog.at_level(logging.WARNING):
        for part in ((None, None, (0, 30)), ((0, 2), None, None)):
            with Loader(tmp_path / "set", one_process("cpu"), batch=4, part=part) as loader:
                assert len(list(loader)) == 10
                assert "parts of x" in loader.describe()
    told = [r.getMessage() for r in caplog.records if "as many bytes" in r.getMessage()]
    assert len(told) == 1
    assert "2.0 times" in told[0]
    assert "--slabs" in told[0]


def test_another_order_on_disk(tmp_path):
    """Boxes are of the items as a network sees them, whatever their order on disk."""
    items = make(tmp_path / "set", shape=(3, 8, 12), count=41, slabs="3x4x3")["x"]
    dataset = Dataset.open(tmp_path / "set")
    dataset.order["x"] = {1: np.arange(8)[::-1].copy(), 2: np.roll(np.arange(12), 5)}
    seen = items[:, :, ::-1][..., np.roll(np.arange(12), 5)]
    box = ((1, 3), (0, 3), (3, 8))
    options = {"batch": 6, "normalize": False}
    with Loader(dataset, one_process("cpu"), part=box, **options) as loader:
        assert shape_of(loader.parts.stored["x"]) == (2, 3, 12)  # 3..7 go over the seam
        for batch in loader:
            assert np.array_equal(batch.x.numpy(), seen[(batch.index, *slices(box))])


@pytest.mark.parametrize("reader", ["direct", "serial", "collective", "memory"])
def test_a_part_may_be_empty(reader, tmp_path):
    """Model ranks beyond the channels of a target have none of it."""
    make(tmp_path / "set", shape=(3, 8, 12), count=41, classes=None, slabs="3x4x3")
    part = {"x": Part((3, 8, 12), ((0, 3), (0, 8), (4, 6))), "y": Part((2, 40), ((2, 2), (0, 40)))}
    with Loader(tmp_path / "set", one_process("cpu"), batch=6, part=part, reader=reader) as loader:
        batches = list(loader)
    assert len(batches) == 6
    assert {(b.x.shape, b.y.shape) for b in batches} == {((6, 3, 8, 2), (6, 0, 40))}


def test_augmentation_of_parts(tmp_path):
    items = make(tmp_path / "set", shape=(4, 8, 12), count=41)["x"]
    dataset, topology = Dataset.open(tmp_path / "set"), one_process("cpu")
    channels = parts_of({"x": ((1, 3), None, None)}, dataset)
    columns = parts_of({"x": (None, None, (0, 6))}, dataset)
    rows = parts_of({"x": (None, (0, 4), None)}, dataset)
    section = AugmentSection(crop=2, flip=True, shift=True)
    whole, own = (
        Augmentation.of(section, dataset, topology, seed=1, parts=parts)
        for parts in (None, channels)
    )
    x, index = torch.as_tensor(items[:5]), np.arange(5)
    views = [a(t, index, epoch=1, samples=range(2)) for a, t in ((whole, x), (own, x[:, 1:3]))]
    assert torch.equal(views[0][:, :, 1:3], views[1])
    for asked, parts, words in (
        ({"flip": True}, columns, "augment.flip moves values along axis 2 of x"),
        ({"shift": True}, columns, "0:6 of 12"),
        ({"crop": 1}, rows, "augment.crop moves values along axis 1 of x"),
        ({"transforms": [{"name": "RandomInvert"}]}, channels, "augment.transforms"),
    ):
        with pytest.raises(UsageError, match=words):
            Augmentation.of(AugmentSection(**asked), dataset, topology, seed=1, parts=parts)
    Augmentation.of(AugmentSection(flip=True), dataset, topology, seed=1, parts=rows)


def test_standardisation_is_that_of_the_whole(tmp_path):
    """Also where one channel alone decides in which type all are standardised."""
    generator = np.random.default_rng(5)
    folder = tmp_path / "set"
    from hpcsamp.ingest import build
    from hpcsamp.ingest.source import ArraySource

    x = generator.normal(0, 1, (40, 3, 6)).astype("<f8") + np.array([0, 1e7, 3])[:, None]
    source = ArraySource(
        name="far", task="regression", normalize_y=True,
        arrays={"x": ArraySpec.plan((3, 6), "<f8"), "y": ArraySpec.plan((5,), "<f4")},
        splits={"train": 40}, source={"name": "far"},
        items={"train": {"x": x, "y": generator.normal(2, 3, (40, 5)).astype("<f4")}},
    )  # fmt: skip
    build(source, folder, slabs="1x3")
    alone = one_process("cpu")
    with (
        Loader(folder, alone, batch=8) as whole,
        Loader(folder, alone, batch=8, part={"x": ((2, 3), (1, 5)), "y": ((3, 5),)}) as part,
    ):
        for a, b in zip(whole, part, strict=True):
            assert torch.equal(a.x[:, 2:3, 1:5], b.x)
            assert torch.equal(a.y[:, 3:5], b.y)


def test_groups_are_unchanged_by_a_batch_that_does_not_divide(tmp_path):
    """What the first rank of a node exchanges is what its ranks have read."""
    make(tmp_path / "set", shape=(3, 5, 2))
    table = ChunkTable(Dataset.open(tmp_path / "set"), "x")
    parts = [part_of(table, 17, 4, r) for r in range(4)]
    assert [p.start for p in parts] == [0, 12, 24, 36]


@pytest.mark.mpi(ranks=[4], timeout=60, unit="s")
def test_nodes_exchange_batches_that_do_not_divide(mpi_ranks, comm, scratch):
    if comm.rank == 0:
        make(scratch / "set", shape=(3, 5, 2))
    comm.Barrier()
    topology = pretend_nodes(init("world", device="cpu"), 2)
    dataset = Dataset.open(scratch / "set")
    with Loader(scratch / "set", topology, batch=17, normalize=False) as loader:
        for batch in loader:
            assert np.array_equal(batch.x.numpy(), dataset.read(batch.index)[0])
