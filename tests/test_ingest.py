"""Ingest: real and made-up sources into folders, whole or not at all."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from data_sets import make, nothing_left
from patience import patient

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.digits import digits as digits_source
from hpcsamp.ingest.source import split_items
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.locks import locked


def files_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


# Splits and digits --------------------------------------------------------------------------------


def test_splits_are_stratified_disjoint_and_complete():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    parts = split_items(160, {"valid": 0.1, "test": 0.2}, labels=labels, seed=4)
    assert sorted(itertools.chain(*parts.values())) == list(range(160))
    assert np.bincount(labels[parts["test"]]).tolist() == [20, 10, 2]
    assert np.bincount(labels[parts["valid"]]).tolist() == [10, 5, 1]
    again = split_items(160, {"valid": 0.1, "test": 0.2}, labels=labels, seed=4)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    with pytest.raises(UsageError, match="take 1 of the items"):
        split_items(10, {"valid": 0.5, "test": 0.5})
    with pytest.raises(UsageError, match="take nan of the items"):
        split_items(10, {"valid": float("nan")})


def test_digits_are_all_there_once(tmp_path):
    from sklearn.datasets import load_digits

    manifest = build(digits_source(), tmp_path / "digits")
    assert manifest.splits == {"train": 1258, "valid": 180, "test": 359}
    seen = []
    for split in manifest.splits:
        dataset = Dataset.open(tmp_path / "digits", split)
        x, y = dataset.read(range(dataset.count))
        seen += [(image.tobytes(), int(label)) for image, label in zip(x, y, strict=True)]
        assert np.abs(np.bincount(y) / len(y) - 0.1).max() < 0.02
    truth = load_digits()
    images = truth.images.astype(np.uint8)[:, None]
    assert sorted(seen) == sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, truth.target, strict=True)
    )


# Whole or not at all ------------------------------------------------------------------------------


def test_the_same_source_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        make(tmp_path / name)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two


@pytest.mark.parametrize(("during", "after"), [("write", 1), ("finish", 2)])
def test_a_killed_ingest_goes_on_where_it_stopped(tmp_path, monkeypatch, during, after):
    from hpcsamp.ingest.build import _Writer

    class Killed(BaseException):
        """Like a signal: no handler of errors sees it."""

    calls = []
    act = getattr(_Writer, during)

    def dies(self, *arguments):
        if len(calls) == after:
            raise Killed
        calls.append(arguments)
        return act(self, *arguments)

    make(tmp_path / "whole")
    with monkeypatch.context() as m:
        m.setattr(_Writer, during, dies)
        with pytest.raises(Killed):
            make(tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with pytest.raises(DataError, match="not a dataset"):
        Dataset.open(tmp_path / ".set.partial")

    written = []
    blocks = _Writer._blocks
    monkeypatch.setattr(_Writer, "_blocks", lambda *a: (written.append(1), blocks(*a))[1])
    make(tmp_path / "set")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")
    shards = len(Dataset.open(tmp_path / "set").manifest.shards)
    assert len(written) == (shards - after if during == "write" else 0)
    assert not (tmp_path / ".set.partial").exists()


def test_what_another_ingest_left_is_not_mixed_in(tmp_path):
    make(tmp_path / "other", seed=7)
    shutil.copytree(tmp_path / "other", tmp_path / ".set.partial")
    (tmp_path / ".set.partial" / "uid").write_text("another")
    make(tmp_path / "set")
    make(tmp_path / "same")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "same")


def test_one_job_at_a_time_writes_a_set(tmp_path):
    with (
        locked(tmp_path / ".set.lock", tmp_path / "set"),
        pytest.raises(UsageError, match=f"set is being written by process {os.getpid()} on"),
    ):
        make(tmp_path / "set")
    make(tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_jobs_that_make_the_same_set_share_it(tmp_path):
    """As the points of a campaign do that all start with --data synthetic."""
    code = f"""
import time
from hpcsamp.ingest import build
from hpcsamp.ingest.build import _Writer
from hpcsamp.ingest.synthetic import synthetic
write = _Writer.write
def slow(self, shard):
    print("written", flush=True)
    time.sleep(0.5)
    write(self, shard)
_Writer.write = slow
build(synthetic("entsoe", 60), {str(tmp_path / "set")!r}, waiting=lambda: print("waiting"))
"""
    command = [sys.executable, "-c", code]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [job.communicate(timeout=patient(60))[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    shards = len(Dataset.open(tmp_path / "set").manifest.shards)
    assert "".join(told).count("written") == shards
    assert "".join(told).count("waiting") <= 2
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_datasets_are_replaced_only_when_asked_and_other_folders_never(tmp_path):
    make(tmp_path / "set")
    source = digits_source()
    with pytest.raises(UsageError, match="--overwrite"):
        build(source, tmp_path / "set")
    assert Dataset.open(tmp_path / "set").count == 203
    build(source, tmp_path / "set", overwrite=True)
    assert Dataset.open(tmp_path / "set").count == 1258
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not a dataset"):
        build(source, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_a_full_disk_leaves_nothing(tmp_path, hpcsamp, script):
    done = script(
        2,
        f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from hpcsamp.runtime import install_excepthook, mpi
comm = mpi().COMM_WORLD
install_excepthook()
from hpcsamp.ingest import build
from hpcsamp.ingest.synthetic import synthetic
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
build(synthetic("cifar10", 1000), {str(tmp_path / "set")!r}, comm=comm, shard_bytes=10**6)
""",
    )
    assert done.code == 1, done.err
    assert len(done.errors) == 1, done.err
    assert "cannot write" in done.errors[0]
    assert "shard-0000" in done.errors[0]
    assert nothing_left(tmp_path / "set")


@pytest.mark.parametrize("ranks", [1, 3])
def test_ingest_and_inspect_from_the_command_line(tmp_path, hpcsamp, ranks):
    folder = tmp_path / "set"
    arguments = ["--like", "cifar10", "--items", 3000, "--shard-mb", 2.2]
    done = hpcsamp(ranks, "ingest", "synthetic", "--out", folder, *arguments)
    assert done.code == 0, done.err
    build(synthetic("cifar10", 3000), tmp_path / "serial", shard_bytes=2_200_000)
    assert files_of(folder) == files_of(tmp_path / "serial")
    done = hpcsamp(ranks, "inspect", folder, "--verify", "--json", tmp_path / "told.json")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["splits"] == {"train": 2400, "valid": 300, "test": 300}
    assert told["verify"]["bad"] == []
    assert told["verify"]["shards"] == told["shard_count"] == 5

    shard = folder / "shard-00002.h5"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) * 3 // 4] ^= 1
    shard.write_bytes(raw)
    done = hpcsamp(ranks, "inspect", folder, "--verify")
    assert done.code == 1
    assert len(done.errors) == 1
    assert "shard-00002.h5: chunk 1 of x (items 2046-2399 of train) is corrupt" in done.out


# Made-up sets ------------------------------------------------------------------------------------


def test_made_up_weather_opens_in_xarray_with_all_its_coordinates(tmp_path):
    import xarray

    build(synthetic("era5", 10), tmp_path / "set")
    with xarray.open_dataset(
        tmp_path / "set" / "shard-00000.h5", engine="h5netcdf", phony_dims="sort"
    ) as opened:
        assert opened["x"].dims == ("index", "channel", "latitude", "longitude")
        assert opened["x"].shape == (8, 76, 121, 240)
        assert opened["y"].dims[1] == "target_channel"


@pytest.mark.parametrize("like", ["digits", "cifar10", "entsoe"])
def test_made_up_items_depend_on_their_number_alone(like):
    source = synthetic(like, 100)
    whole = source.read("train", 0, 80)
    part = source.read("train", 30, 33)
    assert np.array_equal(part["x"], whole["x"][30:33])
    assert np.array_equal(part["y"], whole["y"][30:33])
    assert not np.array_equal(whole["x"][0], source.read("valid", 0, 1)["x"][0])
