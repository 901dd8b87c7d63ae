"""Memory maps, archives and grids: NumPy, PIL and xarray read the same numbers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import h5py
import numpy as np
import pytest
import xarray
from data_sets import nothing_left
from PIL import Image

from hpcsamp.data import Dataset
from hpcsamp.errors import HpcsampError
from hpcsamp.ingest import build
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.netcdf import netcdf, zarr
from hpcsamp.ingest.npy import npy
from hpcsamp.ingest.tar import tar

RNG = np.random.default_rng(0)


# Memory maps --------------------------------------------------------------------------------------


def test_mapped_arrays(tmp_path):
    x, y = RNG.normal(size=(50, 4)), np.arange(50) % 3
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "x_test.npy", x[:7] + 1000)
    np.save(tmp_path / "y_test.npy", y[:7])
    source = npy(tmp_path, fractions={"valid": 0.2, "test": 0.3})
    assert (source.task, source.classes) == ("classification", 3)
    assert source.splits == {"train": 41, "valid": 9, "test": 7}
    build(source, tmp_path / "set")
    rows = source.rows["valid"]
    found = Dataset.open(tmp_path / "set", "valid").read(range(9))
    assert np.array_equal(found[0], x[rows])
    assert np.array_equal(found[1], y[rows])
    assert np.array_equal(Dataset.open(tmp_path / "set", "test").read(range(7))[0], x[:7] + 1000)
    later = npy(tmp_path / "x.npy", targets=tmp_path / "y.npy", rule=Rule(chronological="rows"))
    assert later.rows["train"].tolist() == list(range(35))
    for name, array, words in (
        ("x", np.ones((50, 5, 6, 3), "u1"), ["--layout hwc"]),
        ("x", np.ones((50, 2), int), ["--inputs ids"]),
        ("x", np.full((50, 2), 2**60), ["above 2**53"]),
        ("y", y[:-1], ["(50, 4)", "(49,)"]),
        ("y", np.array([{}] * 50), ["not a readable array"]),
        ("x", np.full((50, 4), np.nan), ["NaN"]),
    ):
        folder = tmp_path / f"bad{words[0]}"
        folder.mkdir()
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        np.save(folder / f"{name}.npy", array)
        inputs = "numbers" if "above 2**53" in words else None
        with pytest.raises(HpcsampError) as caught:
            build(npy(folder, inputs=inputs), tmp_path / "out")
        assert nothing_left(tmp_path / "out")
        for word in words:
            assert word in str(caught.value)


def test_memory_stays_small_beside_a_large_map(tmp_path):
    """400 MB of input, of which no rank may hold more than some blocks."""
    count, width = 100_000, 1000
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (count, width))
    for begin in range(0, count, 10_000):
        x[begin : begin + 10_000] = RNG.normal(size=(10_000, width))
    x.flush()
    np.save(tmp_path / "y.npy", RNG.normal(size=count))
    code = f"""
from hpcsamp.ingest import build
from hpcsamp.ingest.digits import digits
from hpcsamp.ingest.npy import npy
from hpcsamp.processes import peak_rss_mb
import sys
sys.modules["hpcsamp.ingest.build"].BLOCK_BYTES = 2**20
build(digits(), {str(tmp_path / "digits")!r})  # what is imported is no part of it
before = peak_rss_mb()
build(npy({str(tmp_path)!r}), {str(tmp_path / "set")!r})
print(peak_rss_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100
    rows = npy(tmp_path).rows["test"]
    assert np.array_equal(Dataset.open(tmp_path / "set", "test").read([5])[0][0], x[rows[5]])


# Archives -----------------------------------------------------------------------------------------


def archive(path, members):
    with tarfile.open(path, "w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))


def png(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "png")
    return stream.getvalue()


def test_archives_of_images_in_order(tmp_path):
    images = RNG.integers(0, 256, (30, 6, 5, 3), np.uint8)
    for number, begin in enumerate((0, 12)):
        members = []
        for i in range(begin, (12, 30)[number]):
            members += [
                (f"a/{i:04d}.jpg.png"[:6] + ".png", png(images[i])),
                (f"a/{i:04d}.cls", str(i % 3).encode()),
                (f"a/{i:04d}.json", json.dumps({"age": i / 2, "word": "ab"[i % 2]}).encode()),
            ]
        archive(tmp_path / f"{number}.tar", members)
    files = [tmp_path / "0.tar", tmp_path / "1.tar"]
    source = tar(files, fractions={})
    build(source, tmp_path / "set")
    x, y = Dataset.open(tmp_path / "set").read(range(30))
    assert np.array_equal(x, np.moveaxis(images, -1, 1))
    assert y.tolist() == [i % 3 for i in range(30)]
    words = tar(files, label=["word"], fractions={})
    assert (words.class_names, words.values["train"].tolist()) == (["a", "b"], [0, 1] * 15)
    ages = tar(files, label=["age"], task="regression", fractions={})
    assert np.array_equal(ages.values["train"], np.arange(30) / 2)
    (tmp_path / "0.tar").rename(tmp_path / "train-0.tar")
    (tmp_path / "1.tar").rename(tmp_path / "test-0.tar")
    assert tar([tmp_path / "test-0.tar", tmp_path / "train-0.tar"]).splits == {
        "train": 12, "test": 18
    }  # fmt: skip


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", b"x"), ("a.cls", b"1"), ("b.png", b"x")], ["b.png", "no label"]),
        ([("a.png", b"x"), ("a.cls", b"1"), ("b.cls", b"1")], ["b has a label but no image"]),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")], ["a has 2 images"]),
        ([("a.png", b"x"), ("a.json", b'{"k": 1, "l": 2}')], ["--label", "k, l"]),
        ([("a.png", b"x"), ("a.json", b"{")], ["is not valid JSON"]),
        ([("a.txt", b"x")], ["has no images"]),
        ([("a.png", b"x"), ("a.cls", b"1"), ("b.png", b"x"), ("b.cls", b"0")], ["not a readable"]),
    ],
)
def test_bad_archives(tmp_path, members, words):
    archive(tmp_path / "a.tar", members)
    with pytest.raises(HpcsampError) as caught:
        tar([tmp_path / "a.tar"], fractions={})
    for word in ["a.tar", *words]:
        assert word in str(caught.value)


def test_archives_that_are_cut_or_compressed(tmp_path):
    archive(tmp_path / "a.tar", [("a.png", b"x" * 9999), ("a.cls", b"1")])
    raw = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(raw[:3000])
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as made:
        made.addfile(tarfile.TarInfo("a.cls"))
    for name in ("a.tar", "b.tar.gz", "c.tar"):
        with pytest.raises(HpcsampError, match=name):
            tar([tmp_path / name], fractions={})


# Grids --------------------------------------------------------------------------------------------


def weather(count=40, begin="2000-01-01"):
    """Fields with levels, at times."""
    dims = ("time", "level", "latitude", "longitude")
    coords = {
        "time": np.datetime64(begin, "ns") + np.arange(count) * np.timedelta64(6, "h"),
        "level": [1000.0, 850.0, 500.0],
        "latitude": np.linspace(60, 30, 4),
        "longitude": np.arange(5.0),
    }
    made = xarray.Dataset(
        {
            "z": (dims, RNG.normal(size=(count, 3, 4, 5)).astype("f4"), {"units": "m2 s-2"}),
            "t2m": (
                ("time", "longitude", "latitude"),
                RNG.normal(280, 5, (count, 5, 4)).astype("f4"),
                {"units": "K"},
            ),
            "mask": (("latitude", "longitude"), RNG.normal(size=(4, 5)).astype("f4")),
            "load": (("time",), RNG.normal(size=count), {"units": "MW"}),
            "kind": (("time",), np.arange(count) % 3),
            "part": (("time",), np.resize(["train", "test"], count)),
        },
        coords,
    )
    made["latitude"].attrs["units"] = "degrees_north"
    return made


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy", "zarr"])
def test_variables_of_xarray(tmp_path, engine):
    data = weather().drop_vars("part")
    if engine == "zarr":
        data.to_zarr(tmp_path / "a.zarr", consolidated=True, zarr_format=2)
        read, path = zarr, str(tmp_path / "a.zarr")
    else:
        parts = []
        for number, items in enumerate((slice(0, 25), slice(25, 40))):
            parts.append(tmp_path / f"{number}.nc")
            data.isel(time=items).to_netcdf(parts[-1], engine=engine)
        read, path = netcdf, parts
    source = read(
        path, ["z", "t2m", "mask"], ["t2m"], lead=2, rule=Rule(chronological="time"),
        select=["level=500,850", "latitude=35:60"],
    )  # fmt: skip
    build(source, tmp_path / "set")
    manifest = Dataset.open(tmp_path / "set").manifest
    assert manifest.splits == {"train": 27, "valid": 1, "test": 6}  # a lead apart
    assert manifest.arrays["x"].names == ["z@500.0", "z@850.0", "t2m", "mask"]
    assert manifest.arrays["x"].row_units == ["m2 s-2", "m2 s-2", "K", ""]
    chosen = data.isel(latitude=slice(0, 3)).sel(level=[500, 850])
    held = Dataset.open(tmp_path / "set", "test")
    x, y = held.read(range(6))
    at = source.rows["test"]
    assert at.tolist() == [32, 33, 34, 35, 36, 37]
    turned = chosen["t2m"].transpose("time", "latitude", "longitude").values
    assert np.array_equal(x[:, :2], chosen["z"].values[at])
    assert np.array_equal(x[:, 2], turned[at])
    assert np.array_equal(x[0, 3], chosen["mask"].values)
    assert np.array_equal(y[:, 0], turned[at + 2])
    shard = tmp_path / "set" / held.shards[0].file
    with xarray.open_dataset(shard, phony_dims="sort", decode_times=True) as opened:
        assert opened["x"].dims == ("index", "feature", "latitude", "longitude")
        assert np.array_equal(opened["latitude"], chosen["latitude"])
        assert opened["latitude"].attrs["units"] == "degrees_north"
        assert np.array_equal(opened["time"].values, data["time"].values[at])


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.parametrize("version", [2, 3])
def test_a_folder_of_zarr_is_known_by_its_content(tmp_path, version):
    """A value in the middle makes another set, with a checksum of its own; what is not read does
    not.
    """

    data = weather()[["t2m", "load"]]

    def made(name, **changes):
        data.assign(**changes).to_zarr(
            tmp_path / name / "a.zarr", consolidated=version == 2, zarr_format=version
        )
        source = zarr(str(tmp_path / name / "a.zarr"), ["t2m"], ["t2m"], fractions={})
        return build(source, tmp_path / name / "set")

    other = data["t2m"].copy(deep=True)
    other[20] = other[20] + 1
    first, again, changed, unread = (
        made("one"), made("two"), made("three", t2m=other), made("four", load=data["load"] + 1)
    )  # fmt: skip
    assert len(first.source["sha256"]) == 64
    assert (again.uid, again.source) == (first.uid, first.source)
    assert changed.source["sha256"] != first.source["sha256"]
    assert changed.uid != first.uid
    if version == 3:  # in version 2 the metadata of all variables are one file
        assert unread.source["sha256"] == first.source["sha256"]
    with h5py.File(tmp_path / "one" / "set" / first.shards[0].file) as f:
        assert f.attrs["source_sha256"] == first.source["sha256"]


def test_numbers_labels_and_missing_values_of_grids(tmp_path):
    data = weather()
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    path = [tmp_path / "a.nc"]
    found = netcdf(path, ["load", "kind"], ["load"], fractions={})
    assert (found.arrays["x"].shape, found.arrays["y"].shape) == ([2], [])
    assert "--chronological time" in found.report[0]
    labels = netcdf(path, ["z"], ["kind"], task="classification", rule=Rule(split_column="part"))
    assert (labels.classes, labels.splits) == (3, {"train": 20, "test": 20})
    assert labels.read("test", 0, 3)["y"].tolist() == [1, 0, 2]
    data["load"][3] = np.nan
    data.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    path = [tmp_path / "b.nc"]
    with pytest.raises(HpcsampError, match=r"b.nc: .*y: 1 of \d+ values are NaN"):
        build(netcdf(path, ["z"], ["load"], fractions={}), tmp_path / "set")
    build(netcdf(path, ["z"], ["load"], fractions={}, keep_missing=True), tmp_path / "set")
    assert np.isnan(Dataset.open(tmp_path / "set").read([3])[1]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": ["w"]}, ["no variable 'w'", "t2m"]),
        ({"x": ["part"]}, ["part has type", "numbers"]),
        ({"y": ["mask"]}, ["mask has no dimension 'time'"]),
        ({"sample": "step"}, ["no dimension 'step'", "latitude"]),
        ({"select": ["level=700"]}, ["700.0 is not among", "1000.0"]),
        ({"select": ["latitude=70:80"]}, ["leaves nothing", "30.0 to 60.0"]),
        ({"select": ["height=1"]}, ["--select height=1", "level"]),
        ({"lead": 40}, ["a lead of 40"]),
        ({"task": "classification"}, ["one label for each item"]),
    ],
)
def test_wrong_options_of_grids(tmp_path, options, words):
    weather().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    how = {"x": ["z"], "y": ["t2m"], "fractions": {}, **options}
    with pytest.raises(HpcsampError) as caught:
        netcdf([tmp_path / "a.nc"], **how)
    for word in words:
        assert word in str(caught.value)


def test_files_of_grids_that_do_not_fit(tmp_path):
    weather().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    other = weather(begin="2001-01-01")
    other["latitude"] = other["latitude"] + 1
    other.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    warm = weather()
    warm["t2m"].attrs["units"] = "C"
    warm.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    (tmp_path / "d.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:5000])
    for name, words in (
        ("b", "values of latitude differ"),
        ("c", "units are 'C'"),
        ("d", "cannot be read"),
        ("e", "cannot be read"),
    ):
        with pytest.raises(HpcsampError, match=f"{name}.nc: {words}"):
            netcdf([tmp_path / "a.nc", tmp_path / f"{name}.nc"], ["t2m"], ["load"])
    with pytest.raises(HpcsampError, match="cannot be opened as a zarr store"):
        zarr(str(tmp_path / "none.zarr"), ["t2m"], ["load"])


# Commands -----------------------------------------------------------------------------------------


def test_a_file_without_its_command_is_answered_with_the_command(tmp_path):
    from hpcsamp.cli import app

    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.png").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    (tmp_path / "empty").mkdir()
    for name, command in (
        ("a.csv", "ingest csv"),
        ("a.PARQUET", "ingest parquet"),
        ("a.nc", "ingest netcdf"),
        ("store.zarr", "ingest zarr"),
        ("pets", "ingest images"),
        ("saved", "ingest arrow"),
        ("empty", "choose from digits, npz, named, npy, csv"),
        ("cvs", "choose from digits, npz, named, npy, csv"),
    ):
        with pytest.raises(HpcsampError) as caught:
            app(["ingest", str(tmp_path / name), "--out", "x"], standalone_mode=False)
        assert command in str(caught.value)


@pytest.mark.parametrize("kind", ["", "csv", "parquet", "images", "netcdf", "tar", "npy"])
def test_help_waits_for_no_library(kind):
    code = f"""
import sys
from hpcsamp.cli import app
try:
    app(["ingest", *{[kind] * bool(kind)!r}, "--help"], standalone_mode=False)
except SystemExit:
    pass
slow = {{"torch", "pandas", "pyarrow", "xarray", "mpi4py", "transformers"}}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("--out" if kind else "netcdf") in done.stdout
