"""Weather states: units, times and axes of stores."""

import numpy as np
import pytest
from data_sets import nothing_left

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build


def weather(path, times=40, step=6, drop=None, levels=None, steps=None):
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
    each = {
        name: {"chunks": tuple(steps if d == "time" else n for d, n in v.sizes.items())}
        for name, v in dataset.items()
        if steps and "time" in v.dims
    }
    dataset.to_zarr(path, zarr_format=2, consolidated=True, encoding=each)
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
    with pytest.raises(DataError, match=r"a.zarr has no variable 'soil_type'"):
        era5(tmp_path / "a.zarr")
    weather(tmp_path / "b.zarr", levels=[500, 850])
    with pytest.raises(DataError, match=r"lacks the pressure levels \[50, 100"):
        era5(tmp_path / "b.zarr")
    with pytest.raises(DataError, match="nowhere"):
        era5(tmp_path / "nowhere")
    truth = weather(tmp_path / "c.zarr")
    truth.isel(time=[0, 1, 2, 5, 6]).to_zarr(tmp_path / "d.zarr", zarr_format=2, consolidated=True)
    line = r"broken after .*: the next time is 18 h later, but earlier steps are 6 h"
    with pytest.raises(DataError, match=line):
        era5(tmp_path / "d.zarr")
    with pytest.raises(UsageError, match="every 6 h; --every 3"):
        era5(tmp_path / "c.zarr", every=3)
    truth["2m_temperature"][4, 1, 1] = np.nan
    truth.to_zarr(tmp_path / "e.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match=r"e.zarr: items 0-\d+ of train: x: 1 of \d+ values are"):
        build(era5(tmp_path / "e.zarr", every=12), tmp_path / "set")
    assert nothing_left(tmp_path / "set")


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_units_of_stores_are_converted_or_refused(tmp_path):
    from hpcsamp.ingest.era5 import era5

    truth = weather(tmp_path / "a.zarr", times=6)

    def store(name, **units):
        changed = truth.copy()
        for variable, unit in units.items():
            changed[variable].attrs["units"] = unit
        changed.to_zarr(tmp_path / name, zarr_format=2, consolidated=True)
        return era5(tmp_path / name, every=6, valid=0, test=0)

    units = {
        "2m_temperature": "degC",
        "mean_sea_level_pressure": "hPa",
        "specific_humidity": "g kg-1",
        "geopotential": "m2 s-2",
        "soil_type": "~",
    }
    source = store("b.zarr", **units)
    plain = era5(tmp_path / "a.zarr", every=6, valid=0, test=0)
    assert "units converted: specific_humidity from g kg-1" in source.report[0]
    assert "variables without units" in source.report[1]
    assert set(source.report) < set(source.transforms)
    names = source.coords["channel"].values.tolist()
    got, raw = (s.read("train", 0, 1)["x"][0].astype(float) for s in (source, plain))
    for name, factor, shift in (
        ("2m_temperature", 1, 273.15),
        ("mean_sea_level_pressure", 100, 0),
        ("specific_humidity@500", 1e-3, 0),
        ("geopotential@50", 1, 0),
    ):
        at = names.index(name)
        assert np.allclose(got[at], raw[at] * factor + shift, rtol=1e-5, atol=1e-5), name
    line = r"c.zarr: 2m_temperature has units 'degF', but K is needed"
    with pytest.raises(DataError, match=line):
        store("c.zarr", **{"2m_temperature": "degF"})
    with pytest.raises(DataError, match="geopotential has units 'm'"):
        store("d.zarr", geopotential="m")
    asked = ["2m_temperature=K", "geopotential=m2 s-2"]
    era5(tmp_path / "a.zarr", every=6, units=asked)
    line = r"--units 2m_temperature=degC: the set always has the units of ERA5: .*, 2m_temp.* \[K\]"
    with pytest.raises(UsageError, match=line):
        era5(tmp_path / "a.zarr", every=6, units=["2m_temperature=degC"])
    # a store of the same times and shape with other values is another set
    other = truth.copy(deep=True)
    other["2m_temperature"] += 1
    other.to_zarr(tmp_path / "e.zarr", zarr_format=2, consolidated=True)
    shas = {era5(tmp_path / n, every=6).source["sha256"] for n in ("a.zarr", "b.zarr", "e.zarr")}
    assert len(shas) == 3


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_times_of_stores_are_not_cut_to_hours(tmp_path):
    from hpcsamp.ingest.era5 import era5

    truth = weather(tmp_path / "a.zarr", times=6)
    shifted = truth.assign_coords(time=truth["time"] + np.timedelta64(30, "m"))
    shifted.to_zarr(tmp_path / "b.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match="T00:30:00 is not a full hour"):
        era5(tmp_path / "b.zarr")
    truth.isel(time=slice(None, None, -1)).to_zarr(
        tmp_path / "c.zarr", zarr_format=2, consolidated=True
    )
    with pytest.raises(DataError, match="time axis is broken"):
        era5(tmp_path / "c.zarr")
    with pytest.raises(UsageError, match="--start yesterday"):
        era5(tmp_path / "a.zarr", start="yesterday")


@pytest.mark.filterwarnings("ignore::UserWarning:zarr")
def test_era5_reads_a_chunk_of_several_times_once(tmp_path, monkeypatch):
    from hpcsamp.ingest import steps
    from hpcsamp.ingest.era5 import era5

    truth = weather(tmp_path / "w.zarr", times=11, steps=4)
    spans, plain = [], steps._reader

    def counted(source, sample):
        read = plain(source, sample)
        return lambda *span: (spans.append((source.name, *span)), read(*span))[1]

    monkeypatch.setattr(steps, "_reader", counted)
    source = era5(tmp_path / "w.zarr", every=6, valid=0, test=0)
    found = source.read("train", 0, 10)
    assert np.allclose(found["x"][:, 3], truth["2m_temperature"].values[:-1].swapaxes(1, 2))
    assert np.allclose(found["y"][:, 3], truth["2m_temperature"].values[1:].swapaxes(1, 2))
    assert len(spans) == len(set(spans)) == 9 * 3
