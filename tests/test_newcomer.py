"""What somebody tries first: a network in a file of the folder, a table with dates and words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from patience import patient

import hpcsamp as hs
from hpcsamp import config
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.numbers import Notation, NumberParser
from hpcsamp.prediction.csv_file import columns_of

PROGRAM = Path(sys.executable).with_name("hpcsamp")

NET = """
import torch


class Settings:
    def __init__(self, n_heads=1): ...


class Net(torch.nn.Linear):
    config_class = Settings

    def __init__(self, config): ...
"""


def test_a_network_in_a_file_of_the_folder_is_found(tmp_path):
    """By the program that pip installs, whose own folder Python would look into instead."""
    (tmp_path / "newcomers_net.py").write_text(NET)
    done = subprocess.run(
        [PROGRAM, "models", "newcomers_net"],
        cwd=tmp_path, capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "newcomers_net:Net" in done.stdout


def test_keys_of_a_configuration_object_are_no_misspelt_keys(tmp_path, monkeypatch):
    (tmp_path / "newcomers_net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"name": "newcomers_net:Net", "n_heads": 2}  # not model.head
    assert config.check({"data": {"path": "d"}, "model": model}).model.arguments == {"n_heads": 2}


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("01.01.2023 00:00", "--date 'when=cyclical'"),
        ("2023-01-01", "--date 'when=cyclical'"),
        ("Nord", "--onehot 'when' or --ids 'when'"),
        ("4,01", "--decimal"),
        ("", "--missing"),
    ],
)
def test_a_cell_that_is_no_number_is_told_with_the_option_that_reads_it(cell, hint):
    numbers = NumberParser(Path("t.csv"), ["when"], Notation(), ())
    with pytest.raises(DataError, match=f"line 2, column 'when': '{cell}' is not.*{hint}"):
        numbers.read([[cell]], [2])


@pytest.fixture
def own_table(hpcsamp, tmp_path):
    """A run on a table with words, times and decimal commas."""
    lines = ["id;region;when;warm;load"]
    for i in range(60):
        warm, region = (i * 7 % 20) / 4, ("north", "south")[i % 2]
        when = f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00"
        cells = [str(i), region, when, f"{warm}", f"{100 + 3 * warm + i % 2}"]
        lines.append(";".join(cells).replace(".", ","))
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    form = ("--delimiter", ";", "--decimal", ",")
    for words in (
        ("ingest", "csv", "own.csv", "--target", "load", "--drop", "id", "--onehot", "region",
         "--date", "when=cyclical", *form, "--normalize-y", "--out", "set"),
        ("train", "--data", "set", "--output", "run", "--set=training.steps=3"),
    ):  # fmt: skip
        done = hpcsamp(1, *words, cwd=tmp_path)
        assert done.code == 0, done.err
    return tmp_path


def test_predictions_stand_beside_the_rows_of_a_csv_file(own_table, hpcsamp):
    form = ("--delimiter", ";", "--decimal", ",")
    rows = [line.split(";") for line in (own_table / "own.csv").read_text().splitlines()[:12]]
    places = [3, 2, 0, 1]  # another order, and without the target
    given = "\n".join(";".join(row[i] for i in places) for row in rows)
    (own_table / "new.csv").write_text("\ufeff" + given.replace("\n", "\n\n", 1) + "\n")
    # the form of the file is that of the training table
    words = ("predict", "run", "new.csv", "--out", "out.csv", "--quantiles", "0.1,0.9")
    done = hpcsamp(1, *words, cwd=own_table)
    assert done.code == 0, done.err
    assert "columns that the run does not use: id" in done.out
    written = [line.split(";") for line in (own_table / "out.csv").read_text().splitlines()]
    new = ["mean", "std", "std_aleatoric", "std_epistemic", "quantile_0.1", "quantile_0.9"]
    assert written[0] == ["warm", "when", "id", "region", *new]
    assert [row[:4] for row in written] == [[row[i] for i in places] for row in rows]
    x = {
        "region": [row[1] for row in rows[1:]],
        "when": [row[2] for row in rows[1:]],
        "warm": [float(row[3].replace(",", ".")) for row in rows[1:]],
    }
    truth = hs.load(own_table / "run").predict(x, quantiles=[0.1, 0.9])
    numbers = np.array([[float(c.replace(",", ".")) for c in row[4:]] for row in written[1:]])
    np.testing.assert_allclose(numbers[:, 0], truth["mean"].values, rtol=1e-6)
    np.testing.assert_allclose(numbers[:, 1], truth["std"].values, rtol=1e-6)
    np.testing.assert_allclose(numbers[:, 4:], truth["quantiles"].values, rtol=1e-6)
    refused = {
        ("run", "out.csv", *form, "--out", "again.csv"): "already has a column 'mean'",
        ("run", "new.csv", *form, "--out", "out.csv"): "already exists; --overwrite",
        ("run", "new.csv", *form, "--out", "new.csv"): "is the table itself",
        ("run", "new.csv", *form, "--out", "out.h5"): "written as a table",
        ("run", "new.csv", *form, "--out", "o.csv", "--split", "test"): "--data and --split",
        ("run", "--out", "o.csv"): "beside the rows of a table",
        ("run", "new.csv", "--delimiter", "ab", "--out", "o.csv"): "must be one character",
    }
    (own_table / "less.csv").write_text("region;when\nnorth;2024-01-01 00:00\n")
    refused["run", "less.csv", *form, "--out", "o.csv"] = "less.csv lacks warm"
    (own_table / "else.csv").write_text("region;when;warm\nwest;2024-01-01 00:00;1,0\n")
    refused["run", "else.csv", *form, "--out", "o.csv"] = "'west'"
    for words, why in refused.items():
        done = hpcsamp(1, "predict", *words, cwd=own_table)
        assert done.code != 0, words
        assert why in done.err, (words, done.err)
        assert not (own_table / "o.csv").exists()
    done = hpcsamp(2, "predict", "run", "new.csv", *form, "--out", "o.csv", cwd=own_table)
    assert done.code == 2
    assert "in one process, not on 2 ranks" in done.err


def test_arrays_of_an_item_become_columns():
    found = xr.Dataset(
        {
            "a/mean": (("item", "y"), np.arange(4.0).reshape(2, 2)),
            "a/total": ("item", np.zeros(2)),
            "b/probabilities": (("item", "class"), np.array([[0.2, 0.8], [0.9, 0.1]])),
            "b/total": ("item", np.ones(2)),
        },
        {"y": ["wind", "sun"], "class": ["no", "yes"]},
    )
    columns = columns_of(found)
    assert {name: list(values) for name, values in columns.items()} == {
        "a/mean_wind": [0, 2],
        "a/mean_sun": [1, 3],
        "b/predicted": ["yes", "no"],
        "b/probability_no": [0.2, 0.9],
        "b/probability_yes": [0.8, 0.1],
        "b/total": [1, 1],
    }
    with pytest.raises(UsageError, match="1,200 values, but a csv file may have at most 1,000"):
        columns_of(xr.Dataset({"mean": (("item", "v"), np.zeros((2, 1200)))}))
