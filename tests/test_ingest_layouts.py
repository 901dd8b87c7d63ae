"""Weather data in the layouts of anemoi-datasets, makani and GRIB."""

import json

import h5py
import numpy as np
import pytest

from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.layouts import anemoi, grib, makani

NAMES = ["2t", "z_500", "lsm"]
LATITUDE, LONGITUDE = np.linspace(90, -90, 5), np.arange(8) * 45.0
DATES = np.datetime64("2020-01-01T00", "s") + np.arange(12) * np.timedelta64(6, "h")
VALUES = np.random.default_rng(0).normal(size=(12, 3, 2, 40)).astype("<f4")
ALL = {"fractions": {}}


def store(path, *, grid=True, steps=1, **attrs):
    """A dataset in the layout of anemoi-datasets: (dates, variables, members, cells)."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=2)
    data = group.create_array("data", shape=VALUES.shape, chunks=(steps, 3, 2, 40), dtype="<f4")
    data[...] = VALUES
    both = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    axes = {"dates": DATES, **{f"{n}s": v.ravel() for n, v in zip(("latitude", "longitude"), both,
                                                                  strict=True)}}  # fmt: skip
    for name, values in axes.items():
        array = group.create_array(name, shape=values.shape, dtype=values.dtype)
        array[...] = values
    told = {"variables": NAMES, "variables_metadata": {"2t": {"units": "K"}}}
    group.attrs.update(told | ({"field_shape": [5, 8]} if grid else {}) | attrs)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The chunks that zarr reads from disk."""
    zarr = pytest.importorskip("zarr")
    found, plain = [], zarr.storage.LocalStore.get

    async def counted(self, key, *others, **named):
        if key.rpartition("/")[2][0].isdigit():
            found.append(key)
        return await plain(self, key, *others, **named)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    return found


@pytest.fixture
def reads(monkeypatch):
    """The first steps of the chunks that are read, in order; at most two are kept."""
    from hpcsamp.ingest import steps

    found = []
    plain = steps.Steps.__init__

    def counted(self, read, *others):
        def noted(start, stop):
            found.append(start)
            assert len(self._held) < 2  # and this one
            return read(start, stop)

        plain(self, noted, *others)

    monkeypatch.setattr(steps.Steps, "__init__", counted)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_anemoi(tmp_path, reads):
    path = store(tmp_path / "a.zarr")
    source = anemoi(str(path), ["2t", "lsm"], ["z_500"], member=1, lead=1, **ALL)
    assert source.arrays["x"].shape == [2, 5, 8]
    found = source.read("train", 0, 11)
    assert np.array_equal(found["x"], VALUES[:-1, [0, 2], 1].reshape(11, 2, 5, 8))
    assert np.array_equal(found["y"][:, 0], VALUES[1:, 1, 1].reshape(11, 5, 8))
    assert reads == list(range(12))  # each step once, as input and as target
    assert np.array_equal(source.coords["latitude"].values, LATITUDE)
    assert found["time"][1] - found["time"][0] == 6 * 3600
    assert source.arrays["x"].units == "2t [K]"
    cells = anemoi(str(store(tmp_path / "c.zarr", grid=False)), ["2t"], ["2t"], **ALL)
    assert cells.arrays["x"].shape == [40]
    assert np.array_equal(cells.read("train", 3, 5)["x"], VALUES[3:5, 0, 0])
    part = anemoi(str(path), ["2t"], ["2t"], select=["latitude=0:90"], **ALL)
    assert np.array_equal(
        part.read("train", 2, 3)["x"], VALUES[2:3, 0, 0].reshape(1, 1, 5, 8)[:, :, :3]
    )


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_units_of_anemoi(tmp_path):
    """Units are those of the store's variables_metadata."""
    pytest.importorskip("pint", reason="hpcsamp[units] is not installed")
    path = str(store(tmp_path / "a.zarr"))
    source = anemoi(path, ["2t", "lsm"], ["2t"], lead=1, units=["2t=degC"], **ALL)
    assert (source.arrays["x"].units, source.arrays["y"].units) == ("2t [degC]", "degC")
    found, kelvin = source.read("train", 0, 11), VALUES[:, [0, 2], 0].astype(float)
    assert np.abs(found["x"][:, 0].reshape(11, 40) - (kelvin[:-1, 0] - 273.15)).max() < 1e-4
    assert np.array_equal(found["x"][:, 1].reshape(11, 40), kelvin[:-1, 1])  # lsm
    assert np.abs(found["y"][:, 0].reshape(11, 40) - (kelvin[1:, 0] - 273.15)).max() < 1e-4
    with pytest.raises(DataError, match=r"a.zarr: lsm has no unit, so it cannot be converted"):
        anemoi(path, ["2t", "lsm"], ["2t"], units=["lsm=%"])


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_bad_anemoi(tmp_path):
    absent = {"missing_dates": ["2020-01-01T06:00:00"]}
    with pytest.raises(DataError, match="1 of 12 dates are missing, the first is 2020-01-01T06"):
        anemoi(str(store(tmp_path / "a.zarr", **absent)), ["2t"], ["2t"])
    path = str(store(tmp_path / "b.zarr"))
    with pytest.raises(UsageError, match=r"no variable 't2m', only 2t, z_500, lsm"):
        anemoi(path, ["t2m"], ["2t"])
    with pytest.raises(UsageError, match=r"--member 2: .*b.zarr has the members 0 to 1"):
        anemoi(path, ["2t"], ["2t"], member=2)
    with pytest.raises(DataError, match="is not a dataset of anemoi-datasets"):
        anemoi(str(tmp_path / "nowhere.zarr"), ["2t"], ["2t"])


def yearly(path, values, first=None, steps=None):
    """A file of makani, with dimension scales if its first time is given."""
    with h5py.File(path, "w") as f:
        chunks = None if steps is None else (steps, *values.shape[1:])
        fields = f.create_dataset("fields", data=values, chunks=chunks)
        if first is None:
            return path
        seconds = (np.datetime64(first, "s") - np.datetime64(0, "s")).astype(float)
        scales = {
            "timestamp": seconds + np.arange(len(values)) * 21600.0,
            "channel": np.asarray([n.encode() for n in NAMES]),
            "lat": LATITUDE.astype("<f4"),
            "lon": LONGITUDE.astype("<f4"),
        }
        for axis, (name, scale) in enumerate(scales.items()):
            f[name] = scale
            f[name].make_scale(name)
            fields.dims[axis].attach_scale(f[name])
    return path


def test_makani(tmp_path, reads):
    years = VALUES[:, :, 0].reshape(12, 3, 5, 8)
    files = [yearly(tmp_path / "2019.h5", years[:4], "2019-12-31T00"),
             yearly(tmp_path / "2020.h5", years[4:], "2020-01-01T00")]  # fmt: skip
    source = makani(files, ["z_500", "2t"], ["2t"], lead=1, **ALL)
    found = source.read("train", 0, 11)
    assert np.array_equal(found["x"], years[:-1, [1, 0]])
    assert np.array_equal(found["y"], years[1:, [0]])
    assert reads == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]  # of two files
    assert (np.diff(found["time"]) == 6 * 3600).all()
    # the same without scales: the axes are those of the metadata, the year is that of the name
    plain = [yearly(tmp_path / "p2019.h5", years[:4]), yearly(tmp_path / "2021.h5", years)]
    with pytest.raises(UsageError, match=r"p2019.h5 has no dimension scales; give --metadata"):
        makani(plain, ["2t"], ["2t"])
    told = {"dhours": 6, "coords": {"channel": NAMES, "lat": LATITUDE.tolist(),
                                    "lon": LONGITUDE.tolist()}}  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match="name of a file without times must be its year"):
        makani(plain, ["2t"], ["2t"], metadata=tmp_path / "data.json")
    other = makani(plain[1:], ["2t"], ["2t"], metadata=tmp_path / "data.json", **ALL)
    got = other.read("train", 0, 2)
    assert np.array_equal(got["x"], years[:2, [0]])
    assert got["time"][0] == np.datetime64("2021-01-01", "s").astype(int)
    told["coords"]["channel"] = NAMES[:2]
    (tmp_path / "data.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"shape \(12, 3, 5, 8\), .* lengths \(12, 2, 5, 8\)"):
        makani(plain[1:], ["2t"], ["2t"], metadata=tmp_path / "data.json")


def test_grib(tmp_path):
    with pytest.raises(DataError, match=r"none.grib: cannot be read"):
        grib([tmp_path / "none.grib"], ["t"], ["t"])
    pytest.importorskip("cfgrib")
    import eccodes

    values = 280 + VALUES[:, 0, 0].astype(float)
    with open(tmp_path / "a.grib", "wb") as f:
        for date, field in zip(DATES.astype(object), values, strict=True):
            message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
            keys = {
                "Ni": 8, "Nj": 5, "latitudeOfFirstGridPointInDegrees": 90.0,
                "latitudeOfLastGridPointInDegrees": -90.0,
                "longitudeOfFirstGridPointInDegrees": 0.0,
                "longitudeOfLastGridPointInDegrees": 315.0, "iDirectionIncrementInDegrees": 45.0,
                "jDirectionIncrementInDegrees": 45.0, "bitsPerValue": 24, "shortName": "t",
                "dataDate": int(date.strftime("%Y%m%d")), "dataTime": date.hour * 100,
            }  # fmt: skip
            for key, value in keys.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, field)
            eccodes.codes_write(message, f)
            eccodes.codes_release(message)
    source = grib([tmp_path / "a.grib"], ["t"], ["t"], lead=1, **ALL)
    found = source.read("train", 0, 11)
    assert np.abs(found["y"][:, 0] - values[1:].reshape(11, 5, 8)).max() < 1e-4  # packed in 24 bits
    assert source.arrays["x"].units == "K"
    pytest.importorskip("pint", reason="hpcsamp[units] is not installed")
    celsius = grib([tmp_path / "a.grib"], ["t"], ["t"], lead=1, units=["t=degC"], **ALL)
    assert celsius.arrays["y"].units == "degC"
    given = values[1:].reshape(11, 5, 8) - 273.15
    assert np.abs(celsius.read("train", 0, 11)["y"][:, 0] - given).max() < 2e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.grib"]


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_a_chunk_of_several_steps_is_read_once(tmp_path, reads, decoded):
    """12 steps in chunks of 5; each item is an input, and a target of the item before."""
    made = anemoi(str(store(tmp_path / "a.zarr", steps=5)), ["2t", "lsm"], ["2t"], lead=1, **ALL)
    found = made.read("train", 0, 11)
    assert np.array_equal(found["y"][:, 0], VALUES[1:, 0, 0].reshape(11, 5, 8))
    assert reads == [0, 5, 10]
    assert sum(key.startswith("data/") for key in decoded) == 3
    reads.clear()
    years = VALUES[:, :, 0].reshape(12, 3, 5, 8)
    file = yearly(tmp_path / "2020.h5", years, "2020-01-01T00", steps=5)
    found = makani([file], ["2t"], ["z_500"], lead=1, **ALL).read("train", 0, 11)
    assert np.array_equal(found["y"][:, 0], years[1:, 1])
    assert reads == [0, 5, 10]


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.parametrize("kind", ["zarr", "netcdf"])
def test_stores_of_xarray_are_read_by_chunk(kind, tmp_path, reads, decoded):
    """Two variables in chunks of 5 steps; a selection of times need not begin with a chunk."""
    xarray = pytest.importorskip("xarray")
    from hpcsamp.ingest import netcdf as of

    values = np.random.default_rng(1).normal(size=(23, 5, 8))
    times = (DATES[0] + np.arange(23) * np.timedelta64(6, "h")).astype("M8[ns]")
    axes = {"time": times, "latitude": LATITUDE, "longitude": LONGITUDE}
    dims, asked = ("time", "latitude", "longitude"), {"x": ["t", "u"], "y": ["u"], "lead": 3, **ALL}
    data = xarray.Dataset({"t": (dims, values), "u": (dims, values + 1)}, axes)
    if kind == "zarr":
        each = {n: {"chunks": (5, 5, 8)} for n in "tu"}
        data.to_zarr(tmp_path / "a.zarr", encoding=each, zarr_format=2)
        reads.clear()
        decoded.clear()
        read, path, truth = of.zarr, str(tmp_path / "a.zarr"), [0, 5, 10, 15, 20]
    else:
        each = {n: {"chunksizes": (5, 5, 8)} for n in "tu"}
        path = [tmp_path / "0.nc", tmp_path / "1.nc"]
        for file, part in zip(path, (slice(0, 11), slice(11, 23)), strict=True):
            data.isel(time=part).to_netcdf(file, engine="h5netcdf", encoding=each)
        read, truth = of.netcdf, [0, 5, 10] * 2
    source = read(path, **asked)
    found = source.read("train", 0, 8), source.read("train", 8, 20)
    x, y = (np.concatenate([part[n] for part in found]) for n in ("x", "y"))
    assert np.array_equal(x, np.stack([values, values + 1], 1)[:-3])
    assert np.array_equal(y[:, 0], (values + 1)[3:])
    assert sorted(reads) == sorted([*truth[:-1], *truth])  # the last chunk has targets only
    if kind == "zarr":
        assert sum(key[:2] in ("t/", "u/") for key in decoded) == 9
        part = read(path, **asked | {"select": ["time=2020-01-02:2020-01-04"]})
        assert np.array_equal(part.read("train", 0, 6)["x"], x[4:10])
