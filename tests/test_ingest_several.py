"""Several targets from one table, each of a kind of its own: from columns to predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_ingest_columns import COUNT, frame, written
from test_ingest_tables import ingest
from torch import nn

import hpcsamp as hs
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.preparation import Preparation

TARGETS = ["price=load,speed", "kind", "mark=grade"]


def houses():
    """Values of which some are missing, words of which some are missing, ordered numbers."""
    data = frame()[["load", "speed", "kind", "grade"]]
    data["size"], data["age"] = data["load"] / 9, data["grade"] * 1.5
    data.loc[[5, 9], "load"] = np.nan
    data.loc[[3, 4], "kind"] = None
    return data


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_targets_by_name_are_what_pandas_reads(tmp_path, kind):
    data = houses()
    path, read = written(tmp_path, data, kind)
    tasks = ["price=regression", "kind=classification", "mark=ordinal"]
    how = Preparation(missing="keep", target_task=tasks, unit=["load=MW"])
    source = read(path, TARGETS, preparation=how, fractions={"test": 0.25}, normalize_y=True)
    manifest = build(source, tmp_path / "set")
    told = manifest.targets
    assert {name: (t.task, t.classes, t.missing) for name, t in told.items()} == {
        "price": ("regression", None, "nan"),
        "kind": ("classification", 2, -1),
        "mark": ("ordinal", 6, -1),
    }
    assert [t.normalize for t in told.values()] == [True, False, False]
    assert told["kind"].class_names == ["cat", "dog"]
    assert manifest.arrays["price"].names == ["load", "speed"]
    assert manifest.arrays["price"].row_units == ["MW", ""]
    assert manifest.arrays["x"].names == ["size", "age"]
    for split, rows in source.rows.items():
        _, y = Dataset.open(tmp_path / "set", split).read(range(len(rows)))
        own = data.iloc[rows]
        assert np.array_equal(y["price"], own[["load", "speed"]], equal_nan=True)
        assert np.array_equal(y["kind"], pd.Categorical(own["kind"]).codes)
        assert np.array_equal(y["mark"], own["grade"])
    assert {row for rows in source.rows.values() for row in rows} == set(range(COUNT))

    later = data[::-1][:20].assign(kind="dog")
    (tmp_path / "later").mkdir()
    path, read = written(tmp_path / "later", later[later.columns[::-1]], "parquet")
    like = Preparation(like=tmp_path / "set", missing="keep")
    second = build(read(path, preparation=like, fractions={}), tmp_path / "second")
    assert second.targets["kind"] == told["kind"]
    assert second.arrays["price"].row_units == ["MW", ""]
    _, y = Dataset.open(tmp_path / "second").read(range(20))
    assert np.array_equal(y["price"], later[["load", "speed"]], equal_nan=True)
    assert y["kind"].tolist() == [1] * 20


def test_a_table_with_several_targets_is_trained_on_and_predicted(tmp_path):
    houses().dropna().to_csv(tmp_path / "t.csv", index=False)
    options = [f"--target={t}" for t in ("price=load,speed", "kind")]
    tasks = ["--target-task=kind=classification", "--drop=grade", "--normalize-y"]
    assert ingest(tmp_path, "csv", tmp_path / "t.csv", *options, *tasks) is None
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), Heads())
    posterior = hs.fit(network, tmp_path / "set", epochs=2, samples=3, quiet=True)
    table = houses()[["age", "size"]][:7]
    found = posterior.predict(table)
    assert found.price_mean.shape == (7, 2)
    assert found.price_row_of_price.values.tolist() == ["load", "speed"]
    assert np.allclose(found.kind_probabilities.sum("kind_class"), 1)
    assert 40 < float(found.price_mean[:, 0].mean()) < 60  # in the units of the table


class Heads(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.price = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, z):
        return {"kind": self.kind(z), "price": self.price(z)}


@pytest.mark.parametrize(
    ("targets", "options", "words"),
    [
        (["a=load", "b=height"], [], ["no column 'height'"]),
        (["a=load", "a=speed"], [], ["--target a=speed", "'a' already"]),
        (["a=load", "b=load"], [], ["'load' is named more than once"]),
        (["=load", "b=speed"], [], ["--target =load", "NAME=COLUMN"]),
        (["a=load", "b="], [], ["--target b=", "NAME=COLUMN"]),
        (["a=load", "b=kind"], [], ["'kind'", "'cat' is not a finite number"]),
        (["a=load", "b=kind"], ["--target-task=c=counts"], ["c=counts", "a, b"]),
        (["a=load", "b=kind"], ["--target-task=b=words"], ["'words'", "classification"]),
        (["a=load", "b=speed"], ["--target-task=b=classification"], ["b", "not a label"]),
        (["a=load", "b=kind"], ["--target-task=b=ordinal"], ["--class-name b=CLASS"]),
        (["a=load", "b=grade"], ["--class-name=low"], ["--class-name low", "TARGET=CLASS"]),
        (["load"], ["--target-task=load=counts"], ["one target", "--task"]),
        (["x=load", "b=speed"], [], ["cannot be called 'x'"]),
        (["weight=load", "b=speed"], [], ["cannot be called 'weight'"]),
    ],
)
def test_targets_that_cannot_be_made(tmp_path, targets, options, words):
    frame()[["load", "speed", "kind", "grade"]].assign(size=1.5).to_csv(
        tmp_path / "t.csv", index=False
    )
    asked = [f"--target={t}" for t in targets]
    error = ingest(tmp_path, "csv", tmp_path / "t.csv", *asked, "--feature=size", *options)
    for word in words:
        assert word in str(error), str(error)


def test_a_column_with_a_sign_of_equality_is_a_column(tmp_path):
    path, read = written(tmp_path, houses().rename(columns={"load": "a=b,c"}), "csv")
    keep = Preparation(drop=["kind"], missing="drop")
    source = read(path, ["a=b,c"], preparation=keep, fractions={})
    assert source.arrays["y"].names == ["a=b,c"]
    source = read(path, ["q=a=b,c", "speed"], preparation=keep, fractions={})
    assert source.arrays["q"].names == ["a=b,c"]
    with pytest.raises(UsageError, match="a target cannot be called 'index'"):
        read(path, ["index=speed", "grade"], preparation=keep)
