"""Units of fields, converted by ``--units`` or refused."""

import sys

import h5py
import numpy as np
import pytest
from data_sets import nothing_left

from hpcsamp.data import Dataset
from hpcsamp.data.climatology import Climatology
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build, units
from hpcsamp.ingest import netcdf as of
from hpcsamp.ingest.layouts import makani

TIMES = (np.datetime64("2020-01-01") + np.arange(12) * np.timedelta64(6, "h")).astype("M8[ns]")
KELVIN = np.random.default_rng(0).normal(280, 9, (12, 3, 4)).astype("<f4")
DIMS = ("time", "latitude", "longitude")
ASKED = {"units": ["t=degC", "p=hPa", "z=dam"], "fractions": {"test": 0.25}, "lead": 1}


def held(**attrs):
    """Temperature, pressure in whole numbers, a constant height, and a field without a unit."""
    xarray = pytest.importorskip("xarray")
    pressure = (101000 + np.arange(144).reshape(12, 3, 4)).astype("<i4")
    told = {"t": "K", "p": "Pa", "z": "gpm", "rain": ""} | attrs
    values = {
        "t": (DIMS, KELVIN, {"units": told["t"]}),
        "p": (DIMS, pressure, {"units": told["p"]}),
        "z": (DIMS[1:], np.arange(12.0).reshape(3, 4), {"units": told["z"]}),
        "rain": (DIMS, KELVIN, {"units": told["rain"]} if told["rain"] else {}),
    }
    axes = {"latitude": [60.0, 0.0, -60.0], "longitude": np.arange(4) * 90.0}
    return xarray.Dataset(values, {"time": TIMES, **axes})


def file(path, **attrs):
    held(**attrs).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_values_statistics_and_climatology_are_in_the_units_asked_for(kind, tmp_path):
    pytest.importorskip("pint", reason="hpcsamp[units] is not installed")
    if kind == "zarr":
        pytest.importorskip("zarr", reason="hpcsamp[weather] is not installed")
        held().to_zarr(tmp_path / "a", zarr_format=2, encoding={"t": {"chunks": (5, 3, 4)}})
        source = of.zarr(str(tmp_path / "a"), ["t", "p", "z"], ["t"], **ASKED)
    else:
        source = of.netcdf([file(tmp_path / "a.nc")], ["t", "p", "z"], ["t"], **ASKED)
    assert "unit of t converted from K to degC" in source.transforms
    assert source.arrays["x"].dtype == "<f8"
    assert source.arrays["y"].dtype == "<f4"
    assert source.arrays["x"].units == "t [degC], p [hPa], z [dam]"
    assert source.arrays["y"].units == "degC"
    build(source, tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set", "train")
    x, y = dataset.read(range(len(dataset)))
    rows = source.rows["train"]
    celsius = KELVIN.astype(np.float64) - 273.15
    assert np.abs(x[:, 0] - celsius[rows]).max() < 1e-12  # in float64, not in that of the file
    assert np.array_equal(y[:, 0], celsius[rows + 1].astype("<f4"))  # rounded once
    assert np.abs(x[:, 1] - held()["p"].values[rows] / 100).max() < 1e-12
    assert np.abs(x[:, 2] - np.arange(12.0).reshape(3, 4) / 10).max() < 1e-14
    assert np.allclose(np.ravel(dataset.y_stats.mean), celsius[rows + 1].mean(), atol=1e-5)
    with h5py.File(tmp_path / "set" / "climatology.h5") as climatology:
        found = Climatology(climatology["coefficients"][()], climatology["std"][()])
    mean = found.mean(TIMES[rows + 1], len(rows), range(3))
    assert np.allclose(mean.mean(), celsius[rows + 1].mean(), atol=1e-5)  # of least squares


def test_units_of_layouts_without_units(tmp_path):
    """The files of makani have none."""
    with h5py.File(tmp_path / "2020.h5", "w") as opened:
        fields = opened.create_dataset("fields", data=KELVIN[:, None])
        scales = {"time": np.arange(12) * 3600.0, "channel": [b"t"], "lat": [1.0, 0, -1],
                  "lon": np.arange(4.0)}  # fmt: skip
        for axis, (name, values) in enumerate(scales.items()):
            opened[name] = values
            opened[name].make_scale(name)
            fields.dims[axis].attach_scale(opened[name])
    with pytest.raises(DataError, match=r"2020.h5: t has no unit, so .* converted to 'degC'"):
        makani([tmp_path / "2020.h5"], ["t"], ["t"], units=["t=degC"])


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("t", UsageError, r"--units t must be VARIABLE=UNIT, such as t2m=degC"),
        ("u=degC", UsageError, r"--units u=degC: 'u' is not a variable of --x or --y, .* t, rain"),
        ("rain=mm", DataError, r"a.nc: rain has no unit, so it cannot be converted to 'mm'"),
        ("t=degX", UsageError, r"--units t=degX: t has the unit 'K' in .*a.nc, but 'degX' is not"),
        ("t=hPa", UsageError, r"t has .* 'K' in .*a.nc, but its dimension .* not that of 'hPa'"),
    ],
)
def test_units_that_cannot_be_had_are_refused(text, kind, line, tmp_path):
    if "=deg" in text[:5] or "hPa" in text:
        pytest.importorskip("pint", reason="hpcsamp[units] is not installed")
    path = file(tmp_path / "a.nc")
    with pytest.raises(kind, match=line) as found:
        build(of.netcdf([path], ["t", "rain"], ["t"], units=[text]), tmp_path / "set")
    assert "\n" not in str(found.value)
    assert nothing_left(tmp_path / "set")


def test_units_of_several_files_must_agree(tmp_path):
    paths = [file(tmp_path / "a.nc"), file(tmp_path / "b.nc", t="degC")]
    with pytest.raises(DataError, match=r"b.nc: units are 'degC', but .*a.nc has 'K'"):
        of.netcdf(paths, ["t"], ["t"], units=["t=degC"])
    with pytest.raises(UsageError, match="the unit of t is given twice"):
        of.netcdf(paths[:1], ["t"], ["t"], units=["t=degC", "t=K"])


def test_unknown_units_of_a_file_are_refused(tmp_path):
    pytest.importorskip("pint", reason="hpcsamp[units] is not installed")
    path = file(tmp_path / "a.nc", t="bushels of rain")
    with pytest.raises(DataError, match=r"'bushels of rain' in .* pint does not know that"):
        of.netcdf([path], ["t"], ["t"], units=["t=degC"])


def test_without_pint(tmp_path, monkeypatch):
    """It is imported only for a conversion."""
    monkeypatch.setitem(sys.modules, "pint", None)
    units._registry.cache_clear()
    path = file(tmp_path / "a.nc")
    assert of.netcdf([path], ["t"], ["t"], units=["t=K"]).arrays["x"].units == "K"
    with pytest.raises(UsageError, match=r"--units needs pint: pip install hpcsamp\[units\]"):
        of.netcdf([path], ["t"], ["t"], units=["t=degC"])


@pytest.mark.parametrize(
    ("old", "new", "of_ten"),
    [
        ("m s-1", "km h**-1", 36.0),
        ("m s**-1", "m/s", 10.0),
        ("kg m-2 s-1", "kg m**-2 h**-1", 36000.0),
        ("kg m-2 s-1", "mm/day", None),
        ("m2 s-2", "J kg-1", 10.0),
        ("(0 - 1)", "%", 1000.0),
        ("~", "1", 10.0),
        ("1", "%", 1000.0),
        ("degrees_north", "radian", np.pi / 18),
        ("degreesE", "degree", 10.0),
        ("degC", "K", 283.15),
        ("deg_C", "degF", 50.0),
        ("K", "delta_degC", 10.0),
        ("K m-1", "degC km-1", 10000.0),  # of a difference, without the offset
        ("mb", "hPa", 10.0),
        ("gpm", "km", 0.01),
        ("gpm", "m2 s-2", None),
        ("m of water equivalent", "mm", 10000.0),
        ("C", "K", None),  # coulomb
        ("{", "K", None),
    ],
)
def test_spellings_of_cf_and_ecmwf(old, new, of_ten):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("pint", reason="hpcsamp[units] is not installed")
    opened = xarray.Dataset({"v": ("time", [10.0], {"units": old})})
    if of_ten is None:
        with pytest.raises((DataError, UsageError)) as found:
            units.conversions(opened, ["v"], [f"v={new}"], "a.nc")
        assert all(part in str(found.value) for part in (f"v={new}", repr(old), "a.nc"))
        return
    made = units.conversions(opened, ["v"], [f"v={new}"], "a.nc")["v"]
    assert np.allclose(made.apply(np.array([10, np.nan], "<f4")), [of_ten, np.nan],
                       rtol=1e-14, atol=0, equal_nan=True)  # fmt: skip
