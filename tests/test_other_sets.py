"""Another set for a finished run: the same meaning in the same order, or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hpcsamp.data import Dataset, Loader
from hpcsamp.errors import DataError
from hpcsamp.grid import init
from hpcsamp.ingest import build
from hpcsamp.ingest.arrays import from_arrays
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.ingest.tables import table
from hpcsamp.prediction.schema import as_trained
from hpcsamp.run.trained import Trained
from hpcsamp.tasks.coordinates import read_coordinates

RNG = np.random.default_rng(0)
VALUES = {name: RNG.normal(i, 1 + i, 60).round(3) for i, name in enumerate("abcuv")}


def csv(folder, name, columns, targets, rename=None, **options):
    """A table with the columns in an order, as a dataset."""
    path = folder / f"{name}.csv"
    titles = ",".join((rename or {}).get(c, c) for c in columns)
    rows = zip(*(VALUES[c] for c in columns), strict=True)
    path.write_text("\n".join([titles, *(",".join(map(str, r)) for r in rows)]) + "\n")
    build(table(path, targets, fractions={"test": 0.5}, **options), folder / name)
    return folder / name


def fits(path, trained, **options):
    """What a run that was trained on one set takes of another."""
    return as_trained(Dataset.open(path, "test"), Trained.of(trained), **options)


def batch_of(dataset):
    with Loader(dataset, init("world"), batch=30, shuffle=False) as loader:
        return next(iter(loader))


def test_columns_in_another_order_are_put_in_order(tmp_path):
    trained = csv(tmp_path, "trained", "abcuv", ["u", "v"], normalize_y=True)
    other = csv(tmp_path, "other", "cvbua", ["v", "u"])
    found = fits(other, trained)
    expected = batch_of(fits(trained, trained))
    got = batch_of(found)
    assert np.allclose(got.x, expected.x, atol=1e-6)
    assert np.allclose(got.y, expected.y, atol=1e-6)
    assert [note.split(": ")[1] for note in found.notes] == [
        "the 3 entries of x along feature are put into the order of the run's training set",
        "the 2 entries of y along target are put into the order of the run's training set",
    ]
    only = fits(other, trained, inputs_only=True)
    assert np.allclose(batch_of(only).x, expected.x, atol=1e-6)
    assert not fits(trained, trained).notes


@pytest.mark.parametrize(
    ("columns", "targets", "rename", "words"),
    [
        ("abcu", ["u"], {"b": "B"}, ["x", "'B'", "'b'", "1 of 3"]),
        ("abcv", ["v"], {}, ["y", "'v'", "'u'"]),
    ],
)
def test_other_columns_are_refused(tmp_path, columns, targets, rename, words):
    trained = csv(tmp_path, "trained", "abcu", ["u"])
    other = csv(tmp_path, "other", columns, targets, rename)
    with pytest.raises(DataError) as caught:
        fits(other, trained)
    for word in [str(other), *words]:
        assert word in str(caught.value)


def test_sets_without_names_are_not_taken_for_sets_with_them(tmp_path):
    trained = csv(tmp_path, "trained", "abcu", ["u"])
    x = np.column_stack([VALUES[c] for c in "abc"])
    for name, offset in (("plain", 0), ("same", 0.01), ("far", 100)):
        made = from_arrays(
            {"train": (x + offset, VALUES["u"])}, name=name, source={}, fractions={"test": 0.5}
        )
        build(made, tmp_path / name)
    for one, other in ((tmp_path / "plain", trained), (trained, tmp_path / "plain")):
        with pytest.raises(DataError, match=r"coordinates cannot be compared.*begins with a, b, c"):
            fits(one, other)
    assert not fits(tmp_path / "same", tmp_path / "plain").notes
    (note,) = fits(tmp_path / "far", tmp_path / "plain").notes
    assert "3 of 3 channels of x are distributed unlike" in note


class Fields:
    """Made-up weather whose axes are changed."""

    def __init__(self, folder):
        self.folder = folder
        self.trained = self.make("trained")

    def make(self, name, **changes):
        """Changes are functions of a coordinate's values, or meaning and units of ``y``."""
        source = synthetic("era5", 20, grid=(4, 6))
        source.meaning = changes.pop("meaning", {})
        source.transforms = [name]
        for coordinate, change in changes.items():
            old = source.coords[coordinate]
            source.coords[coordinate] = type(old)(
                change(old.values), old.units, old.axis, old.arrays
            )
        build(source, self.folder / name)
        return self.folder / name


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    return Fields(tmp_path_factory.mktemp("fields"))


def test_axes_in_another_order_are_put_in_order(fields):
    flipped = fields.make(
        "flipped", latitude=lambda v: v[::-1].copy(), channel=lambda v: np.roll(v, 3)
    )
    found = fits(flipped, fields.trained)
    raw = Dataset.open(flipped, "test").read(range(2))
    plain = found.manifest.stats
    with Loader(found, init("world"), batch=2, shuffle=False, normalize=False) as loader:
        batch = next(iter(loader))
    assert plain == Dataset.open(fields.trained).manifest.stats
    assert np.array_equal(batch.x, np.roll(raw[0], -3, axis=1)[:, :, ::-1])
    assert np.array_equal(batch.y, raw[1][:, :, ::-1])
    latitude = read_coordinates(found).axis("latitude")
    assert latitude.values.tolist() == np.linspace(-90, 90, 4).tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"longitude": lambda v: v + 7.5}, ["longitude 0 is 7.5", "trained on 0"]),
        (
            {"target_channel": lambda v: np.where(v == "2m_temperature", "dew_point", v)},
            ["y: target_channel 'dew_point'", "'2m_temperature'"],
        ),
        ({"meaning": {"y": {"lead": "12 h"}}}, ["y: lead is '12 h'", "not given"]),
    ],
)
def test_other_axes_are_refused(fields, changes, words):
    other = fields.make(f"other{len(words[0])}", **changes)
    with pytest.raises(DataError) as caught:
        fits(other, fields.trained)
    for word in words:
        assert word in str(caught.value)
    if "lead" in words[0]:  # of no matter where only inputs are compared
        fits(other, fields.trained, inputs_only=True)


CONFIG = """
task = "regression"
[data]
path = "trained"
batch = 10
[model]
name = "mlp"
hidden = [8]
[method]
samples = 2
[loss]
name = "expected_nll"
[likelihood]
name = "gaussian"
std = 0.5
[training]
epochs = 2
precision = "float64"
"""


def test_a_run_is_evaluated_alike_on_reordered_columns(tmp_path, commands, hpcsamp):
    csv(tmp_path, "trained", "abcuv", ["u"], normalize_y=True)
    csv(tmp_path, "turned", "vcbau", ["u"], normalize_y=True)
    csv(tmp_path, "strange", "abcuv", ["u"], {"c": "d"}, normalize_y=True)
    (tmp_path / "c.toml").write_text(CONFIG)
    done = commands(
        1,
        ["train", "c.toml", "--output", "run"],
        ["evaluate", "run", "--json", "own.json"],
        ["evaluate", "run", "--data", "turned", "--ood", "turned", "--json", "turned.json"],
        ["predict", "run", "--data", "turned", "--out", "p.h5"],
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert done.out.count("are put into the order of the run's training set") == 3
    own, turned = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("own", "turned"))
    for name, value in own["metrics"].items():
        assert turned["metrics"][name] == pytest.approx(value, rel=1e-9), name
    done = hpcsamp(1, "predict", "run", "--data", "strange", "--out", "q.h5", cwd=tmp_path)
    assert done.code == 1
    (line,) = done.errors
    assert "feature 'd' is not in the run's training set, which has 'c'" in line
    assert not (tmp_path / "q.h5").exists()
