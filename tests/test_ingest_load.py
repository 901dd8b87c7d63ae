"""Electricity load: times, gaps and notations of files."""

import datetime as dt
import itertools

import numpy as np
import pytest

from hpcsamp.data import Dataset
from hpcsamp.errors import DataError
from hpcsamp.ingest import build
from hpcsamp.ingest.entsoe import entsoe
from hpcsamp.ingest.load_rows import is_summer, read_rows
from hpcsamp.ingest.numbers import Notation


def transparency(path, start, days, change=lambda rows: rows):
    """A year of the transparency platform in local time, as it is exported."""
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
    def holes(rows):
        rows[300][2] = rows[301][2] = "n/e"  # short: interpolated
        del rows[2000:2040]  # ten hours: no window may touch it
        return rows

    transparency(tmp_path / "a.csv", dt.datetime(2019, 5, 1), 40, holes)
    source = entsoe([tmp_path / "a.csv"])
    report = " ".join(source.report)
    assert "gap of 10 h from 2019-05-21 20:00" in report
    assert "1 gaps of at most 1 h were interpolated: 2 of 3840 values (0.05%)" in report
    assert "windows touch a long gap" in report
    build(source, tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    x, y = dataset.read(range(dataset.count))
    assert (x.shape[1:], y.shape[1:]) == ((96,), (24,))
    both = np.concatenate([x, y], axis=1).astype(int)
    assert (np.diff(both, axis=1) == 1).mean() > 0.97  # the load counts quarters, but at wraps
    assert dataset.manifest.normalize_y
    assert "2 of 3840 values (0.05%)" in " ".join(dataset.manifest.transforms)
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
    with pytest.raises(DataError, match="occurs twice"):
        entsoe([tmp_path / "a.csv", tmp_path / "b.csv"])


def quarters(path, header, count=400, step=15, form="%d.%m.%Y %H:%M", load=str, begin=None):
    """A file of the transparency platform with any header."""
    start = begin or dt.datetime(2019, 5, 1)
    times = [start + i * dt.timedelta(minutes=step) for i in range(count)]
    lines = [f'"{t:{form}} - x","{load(50_000 + i)}"' for i, t in enumerate(times)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("column", "hours"),
    [
        ("Time (UTC)", 0),
        ("MTU (UTC)", 0),
        ("Time (CET/CEST)", 2),
        ("MTU (CET)", 2),
        ("MTU (EET/EEST)", 3),
        ("MTU (WET/WEST)", 1),
    ],
)
def test_times_are_in_the_zone_of_the_header(tmp_path, column, hours):
    path = quarters(tmp_path / "a.csv", f'"{column}","Actual Total Load [MW] - X"')
    first = dt.datetime(2019, 5, 1) - dt.timedelta(hours=hours)
    assert read_rows(path)[0].minute == (first - dt.datetime(1970, 1, 1)).total_seconds() / 60


@pytest.mark.parametrize(
    ("header", "options", "words"),
    [
        ('"Time (GMT+5)","Actual Total Load [MW]"', {}, ["GMT+5", "UTC", "CET/CEST"]),
        ('"Time (CET/EEST)","Actual Total Load [MW]"', {}, ["CET/EEST"]),
        ('"Time (UTC)","Actual Total Load [GW]"', {}, ["GW", "MW is needed"]),
        ('"Time (UTC)","Actual Total Load A","Actual Total Load B"', {}, ["2 columns"]),
        (
            '"Time (UTC)","Actual Total Load [MW]"',
            {"step": 60},
            ["every 60 min", "not interpolated"],
        ),
        (
            '"Time (UTC)","Actual Total Load [MW]"',
            {"form": "%d.%m.%Y %H:%M (CEST)"},
            ["line 2", "not in UTC"],
        ),
        (
            '"Time (UTC)","Actual Total Load [MW]"',
            {"load": lambda n: f"{n / 1000:.3f}"},
            ["50.000 may be 50 or 50000", "--thousands ."],
        ),
    ],
)
def test_series_that_would_be_taken_wrongly(tmp_path, header, options, words):
    path = quarters(tmp_path / "a.csv", header, **options)
    with pytest.raises(DataError) as caught:
        entsoe([path])
    for word in ["a.csv", *words]:
        assert word in str(caught.value).replace("'", ""), str(caught.value)


def test_thousands_are_read_as_such(tmp_path):
    header = '"Time (UTC)","Actual Total Load [MW]"'
    path = quarters(tmp_path / "a.csv", header, load=lambda n: f"{n // 1000}.{n % 1000:03d}")
    assert read_rows(path, Notation(thousands="."))[7].load == 50_007
    path.write_bytes(path.read_bytes() + b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        read_rows(path)


def test_what_is_made_up_is_bounded(tmp_path):
    def hourly(rows):  # a tenth of the file has one value an hour
        return [r for i, r in enumerate(rows) if i >= 384 or i % 4 == 0]

    transparency(tmp_path / "a.csv", dt.datetime(2019, 5, 1), 40, hourly)
    with pytest.raises(DataError, match=r"288 of 3840 values \(7.5%\) are missing.*--fill"):
        entsoe([tmp_path / "a.csv"])
    source = entsoe([tmp_path / "a.csv"], fill=0.1)
    assert "288 of 3840 values (7.50%)" in " ".join(source.transforms)


def test_reversed_and_unsorted_times_are_refused(tmp_path):
    for change in (lambda r: r[::-1], lambda r: [*r[:9], r[20], *r[9:20], *r[21:]]):
        transparency(tmp_path / "a.csv", dt.datetime(2019, 5, 1), 3, change)
        with pytest.raises(DataError, match="time axis is broken"):
            read_rows(tmp_path / "a.csv")
