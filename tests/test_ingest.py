"""Ingest: real and made-up sources into folders, whole or not at all."""

import hashlib
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from data_sets import make
from patience import patient

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.cifar10 import cifar10
from hpcsamp.ingest.digits import digits as digits_source
from hpcsamp.ingest.entsoe import entsoe
from hpcsamp.ingest.load_rows import is_summer, read_rows
from hpcsamp.ingest.npz import npz
from hpcsamp.ingest.source import split_items
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.ingest.tables import table
from hpcsamp.locks import locked


def files_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def nothing_left(folder):
    names = {p.name for p in folder.parent.iterdir()}
    return not {n for n in names if n == folder.name or n.startswith(f".{folder.name}")}


# Splits and digits ------------------------------------------------------------------------------


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


# Whole or not at all ----------------------------------------------------------------------------


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
    raw[-3] ^= 1
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    done = hpcsamp(ranks, "inspect", folder, "--verify")
    assert done.code == 1
    assert len(done.errors) == 1
    assert "shard-00002.h5: chunk 1 of x (items 2046-2399 of train) is corrupt" in done.out


# npz and csv ------------------------------------------------------------------------------------


def test_npz_brings_its_own_test_split(tmp_path):
    x, y = np.arange(200.0).reshape(50, 4), np.arange(50) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:7] + 1000, y_test=y[:7])
    source = npz(tmp_path / "a.npz", fractions={"valid": 0.2, "test": 0.3})
    assert (source.task, source.classes) == ("classification", 3)
    assert source.splits == {"train": 41, "valid": 9, "test": 7}  # of each class a fifth
    build(source, tmp_path / "set")
    assert np.array_equal(Dataset.open(tmp_path / "set", "test").read(range(7))[0], x[:7] + 1000)
    np.savez(tmp_path / "b.npz", x=x, y=y.astype(float))
    assert npz(tmp_path / "b.npz").task == "regression"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones(3)}, ["a.npz", "no y"]),
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, ["(3, 2)", "(4,)"]),
        ({"x": np.array([1, np.nan, 3.0]), "y": np.ones(3)}, ["x of train", "1 values", "NaN"]),
        ({"x": np.ones(3), "y": np.array([0, -1, 2])}, ["label -1", "position 1"]),
        ({"x": np.array(["a", "b"]), "y": np.ones(2)}, ["numbers are needed"]),
        (
            {
                "x": np.ones(4),
                "y": np.zeros(4, int),
                "x_test": np.ones((4, 2)),
                "y_test": np.zeros(4),
            },
            ["x of test", "(2,)"],
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        npz(tmp_path / "a.npz")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 something")
    with pytest.raises(DataError, match=r"a.npz: not an .npz"):
        npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.array([{}], object), y=np.ones(1))
    with pytest.raises(DataError, match=r"b.npz"):  # pickles from outside are not loaded
        npz(tmp_path / "b.npz")


def test_csv(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i},{i * 0.5},{i * 2}\n" for i in range(20)]
    path.write_text("a,b,c\n" + "".join(rows))
    source = table(path, ["c"], fractions={"test": 0.25})
    build(source, tmp_path / "set")
    x, y = Dataset.open(tmp_path / "set").read(range(15))
    assert np.array_equal(x[:, 1], x[:, 0] * 0.5)
    assert np.array_equal(y, x[:, 0] * 2)
    several = table(path, ["a", "c"], features=["b"])
    assert several.arrays["y"].shape == [2]
    assert several.arrays["x"].shape == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,four\n", ["line 3", "column 'b'", "'four'"]),
        ("a,b\n1,2\n,4\n", ["line 3", "column 'a'", "''"]),
        ("a,b\n1,nan\n", ["line 2", "column 'b'", "'nan'"]),
        ("a,b\n1,2\n3\n", ["line 3", "1 cells", "header has 2"]),
        ("a,b\n", ["no rows"]),
        ("", ["empty"]),
    ],
)
def test_bad_csv(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        table(path, ["b"])
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_bad_csv_from_the_command_line(tmp_path, hpcsamp):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,four\n")
    done = hpcsamp(2, "ingest", "csv", tmp_path / "t.csv", "--target", "b", "--out", tmp_path / "s")
    assert done.code == 1
    assert len(done.errors) == 1, done.err
    assert "line 3, column 'b': 'four'" in done.errors[0]
    done = hpcsamp(1, "ingest", "csv", tmp_path / "t.csv", "--target", "z", "--out", tmp_path / "s")
    assert done.code in (1, 2)
    assert nothing_left(tmp_path / "s")


# CIFAR-10 ---------------------------------------------------------------------------------------


def archive(path, version, change=None):
    """A small archive in the official layout; its images, labels, and trusted MD5."""
    generator = np.random.default_rng(0)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    images = {n: generator.integers(0, 256, (20, 3072), np.uint8) for n in names}
    labels = {n: np.arange(20) % 10 for n in names}
    with tarfile.open(path, "w:gz") as tar:
        for n in names:
            if version == "python":
                raw = pickle.dumps({b"data": images[n], b"labels": labels[n].tolist()}, protocol=2)
            else:
                raw = np.column_stack([labels[n].astype(np.uint8), images[n]]).tobytes()
            info = tarfile.TarInfo(f"cifar-10/{n}" + (".bin" if version == "binary" else ""))
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
        if change:
            change(tar)
    return images, {hashlib.md5(path.read_bytes()).hexdigest(): version}


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar10(tmp_path, version):
    images, md5 = archive(tmp_path / "c.tar.gz", version)
    source = cifar10(tmp_path / "c.tar.gz", md5=md5)
    assert source.splits == {"train": 90, "valid": 10, "test": 20}
    build(source, tmp_path / "set")
    x, y = Dataset.open(tmp_path / "set", "test").read(range(20))
    assert np.array_equal(x.reshape(20, -1), images["test_batch"])
    assert y.tolist() == [i % 10 for i in range(20)]
    with pytest.raises(DataError, match=r"its MD5 is .* c58f3010"):
        cifar10(tmp_path / "c.tar.gz")


def test_bad_archives(tmp_path):
    path = tmp_path / "c.tar.gz"

    def add(name, **attributes):
        def change(tar):
            info = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info)

        return change

    for change, word in (
        (add("cifar-10/../../evil"), "outside its folder"),
        (add("/etc/evil"), "outside its folder"),
        (add("cifar-10/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no plain file"),
    ):
        _, md5 = archive(path, "binary", change)
        with pytest.raises(DataError, match=word):
            cifar10(path, md5=md5)
    assert not (tmp_path.parent / "evil").exists()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole archive"):
        cifar10(path, md5={hashlib.md5(path.read_bytes()).hexdigest(): "binary"})


def test_pickles_that_do_more_than_hold_arrays_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("harm done",)

    path = tmp_path / "c.tar.gz"
    raw = pickle.dumps({b"data": Evil(), b"labels": [1]}, protocol=2)
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10/data_batch_1")
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))
    md5 = {hashlib.md5(path.read_bytes()).hexdigest(): "python"}
    with pytest.raises(DataError, match="no place in a batch"):
        cifar10(path, md5=md5)


# ENTSO-E ----------------------------------------------------------------------------------------


def transparency(path, start, days, change=lambda rows: rows):
    """A year of the transparency platform in local time, as it is exported."""
    import datetime as dt

    rows, utc, end = [], start, start + dt.timedelta(days=days)
    while utc < end:
        minute = int((utc - dt.datetime(1970, 1, 1)).total_seconds() // 60)
        local = utc + dt.timedelta(hours=2 if is_summer(minute) else 1)
        after = local + dt.timedelta(minutes=15)
        load = 50_000 + (minute // 15) % 9000
        rows.append([f"{local:%d.%m.%Y %H:%M} - {after:%d.%m.%Y %H:%M}", "", str(load)])
        utc += dt.timedelta(minutes=15)
    rows = change(rows)
    header = '"Time (CET/CEST)","Day-ahead Total Load Forecast [MW]","Actual Total Load [MW] - DE"'
    lines = [",".join(f'"{cell}"' for cell in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n")


def test_summer_time_is_undone(tmp_path):
    import datetime as dt

    for start in (dt.datetime(2019, 3, 28), dt.datetime(2019, 10, 24)):
        path = tmp_path / f"{start:%m}.csv"

        def skipped(rows):  # the export lists the hour that clocks skip, without a value
            at = next((i for i, r in enumerate(rows) if "31.03.2019 03:00 - " in r[0]), None)
            return (
                rows if at is None else [*rows[:at], ["31.03.2019 02:00 - x", "", "-"], *rows[at:]]
            )

        transparency(path, start, 6, skipped)
        rows = read_rows(path)
        steps = {b.minute - a.minute for a, b in itertools.pairwise(rows)}
        assert steps == {15}
        assert len(rows) == 6 * 96
        assert all(r.load == 50_000 + (r.minute // 15) % 9000 for r in rows)


def test_gaps_are_filled_or_avoided_and_told(tmp_path):
    import datetime as dt

    def holes(rows):
        rows[300][2] = rows[301][2] = "n/e"  # short: interpolated
        del rows[2000:2040]  # ten hours: no window may touch it
        return rows

    transparency(tmp_path / "a.csv", dt.datetime(2019, 5, 1), 40, holes)
    source = entsoe([tmp_path / "a.csv"])
    report = " ".join(source.report)
    assert "gap of 10 h from 2019-05-21 20:00" in report
    assert "1 gaps of at most 1 h were interpolated" in report
    assert "windows touch a long gap" in report
    build(source, tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    x, y = dataset.read(range(dataset.count))
    assert (x.shape[1:], y.shape[1:]) == ((96,), (24,))
    both = np.concatenate([x, y], axis=1).astype(int)
    assert (np.diff(both, axis=1) == 1).mean() > 0.97  # the load counts quarters, but at wraps
    assert dataset.manifest.normalize_y
    total = 40 * 96
    windows = sum(max(0, n - 119) for n in (round(0.8 * total), round(0.1 * total), total // 10))
    assert sum(dataset.manifest.splits.values()) == windows - (40 + 119)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: [*r[:50], [r[50][0], "", "many"], *r[51:]], ["line 52", "'many'"]),
        (lambda r: [*r[:50], r[60], r[61], *r[55:]], ["line 54", "time axis is broken"]),
        (lambda r: [*r[:50], ["32.05.2019 00:00 - x", "", "1"]], ["line 52", "not a time"]),
        (lambda r: [*r[:50], ["31.05.2019 00:07 - x", "", "1"]], ["line 52", "quarter"]),
    ],
)
def test_bad_series(tmp_path, change, words):
    import datetime as dt

    transparency(tmp_path / "a.csv", dt.datetime(2019, 5, 1), 3, change)
    with pytest.raises(DataError) as caught:
        entsoe([tmp_path / "a.csv"])
    for word in ["a.csv", *words]:
        assert word in str(caught.value), str(caught.value)


def test_open_power_system_data_and_files_that_overlap(tmp_path):
    lines = ["utc_timestamp,cet_cest_timestamp,DE_load_actual_entsoe_transparency"]
    for i in range(2000):
        day, quarter = divmod(i, 96)
        time = f"2018-01-{day + 1:02d}T{quarter // 4:02d}:{quarter % 4 * 15:02d}:00Z"
        lines.append(f"{time},x,{40000 + i}")
    (tmp_path / "a.csv").write_text("\n".join(lines[:1001]))
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[1001:]]))
    source = entsoe([tmp_path / "b.csv", tmp_path / "a.csv"])
    assert source.read("train", 5, 6)["x"][0].tolist() == [40005 + i for i in range(96)]
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[1000:]]))
    with pytest.raises(DataError, match="comes twice"):
        entsoe([tmp_path / "a.csv", tmp_path / "b.csv"])


# ERA5 -------------------------------------------------------------------------------------------


def weather(path, times=40, step=6, drop=None, levels=None):
    """A small store in the layout of WeatherBench 2."""
    import xarray

    from hpcsamp.ingest.fields import LEVELS, MASKS, SURFACE, UPPER

    generator = np.random.default_rng(0)
    levels = list(LEVELS) if levels is None else levels
    lat, lon = np.linspace(-90, 90, 5), np.arange(8) * 45.0
    axis = np.datetime64("2001-12-28T00") + np.arange(times) * np.timedelta64(step, "h")
    held = {}
    for name in UPPER:
        shape = (times, len(levels), 8, 5)  # longitude before latitude, as there
        held[name] = (("time", "level", "longitude", "latitude"), generator.normal(250, 9, shape))
    for name in SURFACE:
        held[name] = (("time", "longitude", "latitude"), generator.normal(0, 1, (times, 8, 5)))
    for name in MASKS:
        held[name] = (("longitude", "latitude"), generator.random((8, 5)))
    held.pop(drop, None)
    coords = {"time": axis.astype("datetime64[ns]"), "level": levels}
    coords |= {"latitude": lat, "longitude": lon}
    dataset = xarray.Dataset(held, coords)
    dataset.to_zarr(path, zarr_format=2, consolidated=True)
    return dataset


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_era5(tmp_path):
    import xarray

    from hpcsamp.ingest.era5 import era5

    truth = weather(tmp_path / "w.zarr")
    source = era5(tmp_path / "w.zarr", every=6, valid=0.2, test=0.2)
    build(source, tmp_path / "set", shard_bytes=10**5)
    dataset = Dataset.open(tmp_path / "set", "valid")
    assert dataset.manifest.splits == {"train": 23, "valid": 7, "test": 7}  # targets stay inside
    x, y = dataset.read(range(7))
    assert x.shape == (7, 76, 5, 8)
    assert y.shape == (7, 69, 5, 8)
    at = 24 + 3
    u = truth["u_component_of_wind"].sel(level=300)
    channel = source.coords["channel"].values.tolist().index("u_component_of_wind@300")
    assert np.allclose(x[3, channel], u.isel(time=at).values.T)
    assert np.allclose(y[3, channel], u.isel(time=at + 1).values.T)
    assert np.allclose(x[2, 69], truth["land_sea_mask"].values.T)
    # noon at Greenwich: the sun is highest there, so the cosine of solar time is -1
    noon = next(
        i for i in range(7) if truth["time"].values[24 + i].astype("M8[h]").item().hour == 12
    )
    assert np.allclose(x[noon, 72, :, 0], -1)
    assert np.allclose(x[:, 74, 2], 0)  # no seasons on the equator

    with xarray.open_dataset(
        tmp_path / "set" / dataset.shards[0].file, engine="h5netcdf", phony_dims="sort"
    ) as opened:
        picked = opened["x"].sel(channel="u_component_of_wind@300", longitude=90.0)
        assert np.array_equal(picked.values[0], x[0, channel, :, 2])
        assert opened["time"].values[0] == truth["time"].values[24]
        assert opened["latitude"].attrs["units"] == "degrees_north"


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_bad_weather(tmp_path):
    from hpcsamp.ingest.era5 import era5

    weather(tmp_path / "a.zarr", drop="soil_type")
    with pytest.raises(DataError, match=r"a.zarr: has no variable 'soil_type'"):
        era5(tmp_path / "a.zarr")
    weather(tmp_path / "b.zarr", levels=[500, 850])
    with pytest.raises(DataError, match=r"no pressure levels \[50, 100"):
        era5(tmp_path / "b.zarr")
    with pytest.raises(DataError, match="nowhere"):
        era5(tmp_path / "nowhere")
    truth = weather(tmp_path / "c.zarr")
    truth.isel(time=[0, 1, 2, 5, 6]).to_zarr(tmp_path / "d.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match=r"broken after .*: 18 h to the next time, 6 h before"):
        era5(tmp_path / "d.zarr")
    with pytest.raises(UsageError, match="every 6 h; every 3 h"):
        era5(tmp_path / "c.zarr", every=3)
    truth["2m_temperature"][4, 1, 1] = np.nan
    truth.to_zarr(tmp_path / "e.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match=r"e.zarr: items 0-\d+ of train: x holds 1 values"):
        build(era5(tmp_path / "e.zarr", every=12), tmp_path / "set")
    assert nothing_left(tmp_path / "set")


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
