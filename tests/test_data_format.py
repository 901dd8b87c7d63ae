"""Dataset folders: what is written is what is read, and nothing that is wrong passes."""

import shutil

import h5py
import numpy as np
import pytest
from data_sets import flip_bit, make

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.offsets import Offsets
from hpcsamp.data.read_plan import ChunkTable, part_of, plan, runs
from hpcsamp.data.readers import DirectReader, SerialReader, choose_reader
from hpcsamp.data.shard_writer import seal
from hpcsamp.data.stats import Moments, combine
from hpcsamp.data.verify import verify
from hpcsamp.errors import DataError, UsageError
from hpcsamp.sealing import text

SETS = {
    "whole items": {"shape": (3, 5, 2)},
    "items over several chunks": {"shape": (7, 30, 4), "count": 41, "classes": None},
    "numbers": {"shape": (), "dtype": "<f8", "chunk_bytes": 80, "shard_bytes": 800},
    "bytes": {"shape": (1, 8, 8), "dtype": "u1"},
    "compressed": {"shape": (3, 5, 2), "compression": "gzip"},
    "compressed large": {"shape": (7, 30, 4), "count": 41, "compression": "lzf"},
    "slabs": {"shape": (7, 30, 5), "count": 41, "classes": None, "slabs": (3, 7, 2)},
    "compressed slabs": {"shape": (7, 30), "count": 41, "slabs": "7x4", "compression": "gzip"},
}


@pytest.mark.parametrize("name", SETS)
def test_what_is_read_is_what_was_written(name, tmp_path):
    items = make(tmp_path / "set", **SETS[name])
    with Dataset.open(tmp_path / "set") as dataset:
        assert len(dataset.shards) >= 2
        wanted = np.random.default_rng(1).integers(0, dataset.count, 33)
        x, y = dataset.read(wanted)
        assert np.array_equal(x, items["x"][wanted])
        assert np.array_equal(y, items["y"][wanted])
        for shard in dataset.shards:  # anybody's h5py reads the same
            with h5py.File(tmp_path / "set" / shard.file) as f:
                own = slice(shard.first, shard.first + shard.count)
                assert np.array_equal(f["x"][()], items["x"][own])
                assert f["index"][()].tolist() == list(range(own.start, own.stop))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_readers_fetch_their_part_and_no_more(name, ranks, tmp_path):
    items = make(tmp_path / "set", **SETS[name])
    dataset = Dataset.open(tmp_path / "set")
    filtered = dataset.manifest.arrays["x"].compression is not None
    readers = [SerialReader(dataset)] + ([] if filtered else [DirectReader(dataset)])
    generator = np.random.default_rng(2)
    batches = [generator.integers(0, dataset.count, n) for n in (2, 13, 40)]
    batches.append(np.arange(5, 35))  # neighbours, read in one go
    batches.append(np.array([7, 7, 8, 7]))  # padding repeats items
    for array in ("x", "y"):
        table = ChunkTable(dataset, array)
        for wanted in batches:
            truth = items[array][wanted].astype(table.spec.dtype).reshape(-1).view(np.uint8)
            parts = [part_of(table, len(wanted), ranks, r) for r in range(ranks)]
            assert [r for part in parts for r in part] == list(range(len(wanted) * table.spec.rows))
            for reader in readers:
                whole = np.full(len(truth), 99, np.uint8)
                for part in parts:
                    own = np.full(len(truth), 99, np.uint8)
                    reader.fetch(table, wanted, part, own)
                    span = slice(
                        part.start * table.spec.row_bytes, part.stop * table.spec.row_bytes
                    )
                    assert np.array_equal(own[span], truth[span])
                    untouched = np.delete(own, np.arange(span.start, span.stop))
                    assert (untouched == 99).all()
                    whole[span] = own[span]
                assert np.array_equal(whole, truth)
    for reader in readers:
        reader.close()


def test_huge_items_split_evenly_over_ranks():
    spec = ArraySpec.plan((76, 121, 240), "<f4")
    assert (spec.items_per_chunk, spec.rows_per_chunk, spec.chunks_per_item) == (1, 19, 4)

    class Table:
        pass

    table = Table()
    table.spec, table.rows, table.cutter, table.item_bytes = spec, spec.rows, None, spec.item_bytes
    sizes = [len(part_of(table, 2, 8, r)) * spec.row_bytes for r in range(8)]
    assert max(sizes) == min(sizes) == 2 * spec.item_bytes // 8


def test_neighbouring_items_are_read_in_one_go(tmp_path):
    make(tmp_path / "set", chunk_bytes=1200)
    dataset = Dataset.open(tmp_path / "set")
    table = ChunkTable(dataset, "x")
    for find in (
        lambda items, part: runs(table, items, part),
        lambda i, p: plan(table, i, p).runs(),
    ):
        _, _, _, size = find(np.arange(30), range(0, 90))
        assert size.sum() == 30 * table.spec.item_bytes
        assert len(size) <= 2  # one per shard


def test_direct_reads_refuse_compressed_chunks(tmp_path):
    make(tmp_path / "set", compression="gzip")
    dataset = Dataset.open(tmp_path / "set")
    assert choose_reader(dataset, "auto") == "serial"
    with pytest.raises(UsageError, match="compressed"):
        choose_reader(dataset, "direct")


def test_offsets_are_told_shortly_and_exactly():
    for offsets in ([5], [8, 16, 24], [8, 16, 32], []):
        assert Offsets.of(offsets).array().tolist() == offsets
    assert Offsets.of(range(0, 800, 8)).listed is None


def test_statistics_are_exact_at_large_means_and_in_any_parts():
    generator = np.random.default_rng(3)
    values = 300 + 1e-3 * generator.standard_normal((400, 3, 7))
    whole = Moments.of(values).stats()
    parts = combine(Moments.of(part) for part in np.array_split(values, [1, 50, 399])).stats()
    for stats in (whole, parts):
        assert np.allclose(stats.std, values.std(axis=(0, 2)), rtol=1e-9, atol=0)
        assert np.allclose(stats.mean, values.mean(axis=(0, 2)), rtol=1e-13)
        assert stats.count == 2800
    assert parts.min == values.min(axis=(0, 2)).tolist()


def test_statistics_are_of_train_alone_and_in_every_shard(tmp_path):
    items = make(tmp_path / "set", classes=None)
    dataset = Dataset.open(tmp_path / "set", "test")
    assert np.allclose(dataset.stats.mean, items["x"].mean(axis=(0, 2, 3)), rtol=1e-6)
    assert np.allclose(dataset.y_stats.std, items["y"].std(axis=(0, 2)), rtol=1e-6)
    with h5py.File(tmp_path / "set" / dataset.shards[-1].file) as f:
        assert f["stats/x/mean"][()].tolist() == dataset.stats.mean


# Bad input --------------------------------------------------------------------------------------


def refuse(folder, *words, split="train"):
    with pytest.raises(DataError) as caught:
        Dataset.open(folder, split)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_no_dataset(tmp_path):
    refuse(tmp_path / "nothing", "nothing", "no such folder")
    refuse(tmp_path, "manifest.json", "hpcsamp ingest")
    make(tmp_path / "set")
    refuse(tmp_path / "set", "'dev'", "test, train", split="dev")


def test_missing_and_truncated_shards(tmp_path):
    make(tmp_path / "set")
    shard = tmp_path / "set" / "shard-00001.h5"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    refuse(tmp_path / "set", "shard-00001.h5", f"has {len(whole) - 100} bytes, but {len(whole)}")
    shard.write_bytes(b"\0" * len(whole))
    refuse(tmp_path / "set", "shard-00001.h5", "is damaged", "its seal is missing")
    shard.unlink()
    refuse(tmp_path / "set", "shard-00001.h5", "No such file")


def test_shard_of_another_set_and_swapped_shards(tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "two", seed=1)
    shutil.copy(tmp_path / "two/shard-00001.h5", tmp_path / "one/shard-00001.h5")
    refuse(tmp_path / "one", "shard-00001.h5", "dataset_uid", "belongs to another dataset")
    shutil.copy(tmp_path / "two/shard-00000.h5", tmp_path / "two/shard-00001.h5")
    refuse(tmp_path / "two", "shard-00001.h5", "according to the manifest")


def test_statistics_of_another_set(tmp_path):
    make(tmp_path / "set")
    path = tmp_path / "set/shard-00000.h5"
    with h5py.File(path, "r+") as f:
        f["stats/x/mean"][0] += 1
    seal(path)
    refuse(tmp_path / "set", "shard-00000.h5", "mean of x over train")


def edited(folder, change):
    path = folder / "manifest.json"
    told = text.read_json(path)
    change(told)
    path.write_text(text.to_json(told))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["splits"].update(train=200), ["'train'", "200", "203"]),
        (lambda m: m["shards"].pop(1), ["shard-00002.h5", "begins at item"]),
        (lambda m: m["shards"][0].update(count=9), ["shard-00000.h5", "chunks of x"]),
        (lambda m: m.update(schema_version=7), ["schema version is 7", "reads 1, 2, 3 and 4"]),
        (lambda m: m.update(classes=None), ["classification", "None"]),
        (lambda m: m["arrays"]["x"].update(shape=[3, 5, 3]), ["shape of x"]),
        (lambda m: m.update(extra=1), ["extra"]),
    ],
)
def test_manifest_that_disagrees(tmp_path, change, words):
    make(tmp_path / "set")
    edited(tmp_path / "set", change)
    refuse(tmp_path / "set", *words)


def test_manifest_cut_short(tmp_path):
    make(tmp_path / "set")
    path = tmp_path / "set/manifest.json"
    path.write_text(path.read_text()[:200])
    refuse(tmp_path / "set", "manifest.json", "not valid JSON")


@pytest.mark.parametrize("name", ["whole items", "items over several chunks", "compressed"])
def test_flipped_bits_are_found_and_named(name, tmp_path):
    from mpi4py import MPI

    make(tmp_path / "set", **SETS[name])
    clean = verify(tmp_path / "set", Dataset.open(tmp_path / "set").manifest, MPI.COMM_SELF)
    assert clean.bad == []
    file, chunk = flip_bit(tmp_path / "set", item=30)
    dataset = Dataset.open(tmp_path / "set")
    with pytest.raises(DataError, match=rf"{file}: chunk {chunk} of x .*(CRC-32|cannot be read)"):
        dataset.read([30])
    found = verify(tmp_path / "set", dataset.manifest, MPI.COMM_SELF)
    assert len(found.bad) == 1
    assert f"{file}: chunk {chunk} of x" in found.bad[0]


def test_a_flip_outside_the_chunks_is_found_by_the_hash(tmp_path):
    from mpi4py import MPI

    make(tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    path = tmp_path / "set" / dataset.shards[0].file
    with h5py.File(path, "r+") as f:
        f.attrs["licence"] = "changed afterwards"[: len(f.attrs["licence"]) or 1]
    seal(path)
    edited(tmp_path / "set", lambda m: m["shards"][0].update(size=path.stat().st_size))
    found = verify(tmp_path / "set", Dataset.open(tmp_path / "set").manifest, MPI.COMM_SELF)
    assert len(found.bad) == 1
    assert "SHA-256" in found.bad[0]


def test_nan_and_labels_are_refused_on_read_though_their_checksum_fits(tmp_path):
    """As another writer might have made them."""
    import zlib

    make(tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    path = tmp_path / "set" / dataset.shards[0].file
    with h5py.File(path, "r+") as f:
        f["x"][2, 0] = np.nan
        k = dataset.manifest.arrays["x"].items_per_chunk
        f["integrity/x_crc32"][0] = zlib.crc32(f["x"][:k].tobytes())
        f["y"][1] = 4
        f["integrity/y_crc32"][0] = zlib.crc32(f["y"][()].tobytes())
    seal(path)
    with pytest.raises(DataError, match=r"shard-00000.h5: chunk 0 of x .* 10 of .* values are NaN"):
        dataset.read([0])
    with pytest.raises(DataError, match=r"label 4 at position 1 is out of range for 4 classes"):
        Dataset.open(tmp_path / "set").read_all("y")
