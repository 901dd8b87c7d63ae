"""``hpcsamp init`` and configurations that are chosen by the shape of a dataset."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import environment

from hpcsamp import config
from hpcsamp.config.toml import parse_toml
from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.build import build
from hpcsamp.ingest.named import from_named
from hpcsamp.project import write
from hpcsamp.run.usual import few_items, usual

G = np.random.default_rng(0)
N = 40
VALUES = G.normal(size=N).astype("f4")
LABELS = np.arange(N) % 3
FIELDS = G.normal(size=(N, 2, 6, 8)).astype("f4")
#: Inputs, targets, the kinds of inputs and tasks of targets, the network of the package.
SETS = {
    "rows": (G.normal(size=(N, 5)), VALUES, {}, {}, "mlp"),
    "series": (G.normal(size=(N, 3, 20)), LABELS, {}, {}, "mlp"),
    "images": (G.normal(size=(N, 1, 12, 12)), LABELS, {}, {}, "vit"),
    "odd_images": (G.normal(size=(N, 1, 37, 41)), LABELS, {}, {}, "mlp"),
    "fields": (FIELDS, FIELDS[:, :1], {}, {}, "mixer"),
    "pixels": (FIELDS, (FIELDS[:, 0] > 0).astype(int), {}, {"y": "segmentation"}, "mixer"),
    "ids": (G.integers(0, 9, (N, 7)), LABELS, {"x": "ids"}, {}, None),
    "several": ({"a": G.normal(size=(N, 4)), "b": FIELDS}, LABELS, {}, {}, None),
    "targets": (G.normal(size=(N, 5)), {"kind": LABELS, "size": VALUES}, {}, {}, "mlp"),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("sets")
    for name, (x, y, kinds, tasks, _) in SETS.items():
        source = from_named({"train": (x, y)}, name=name, kinds=kinds, tasks=tasks)
        build(source, root / name)
    return root


@pytest.mark.parametrize("name", SETS)
def test_the_files_of_a_project_train(name, sets, hpcsamp, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    written = write(folder, sets / name)
    assert {p.name for p in written} == {
        "network.py", "run.toml", "run.sh", "job.sh", "campaign.toml", "test_network.py",
    }  # fmt: skip
    monkeypatch.chdir(folder)
    done = hpcsamp(
        1, "train", "run.toml", "--output", str(tmp_path / "run"), "--set=training.steps=2"
    )
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2


@pytest.mark.parametrize("name", [n for n, of in SETS.items() if of[-1] is not None])
def test_a_dataset_alone_is_trained(name, sets, hpcsamp, tmp_path):
    network, run = SETS[name][-1], tmp_path / "run"
    table = parse_toml(usual(sets / name), "usual")
    assert table["model"]["name"] == network
    done = hpcsamp(
        1, "train", "--data", str(sets / name), "--output", str(run), "--set=training.steps=2"
    )
    assert done.code == 0, done.err
    assert f'name = "{network}"' in done.out  # the configuration is shown
    assert "--print-config" in done.out
    assert config.load(str(run / "config.toml")).model.name == network


def test_intervals_of_a_small_table_are_neither_wide_nor_narrow(hpcsamp, tmp_path):
    """Noise of a tenth of the targets' spread is learnt within the chosen number of steps."""
    g = np.random.default_rng(5)
    x = g.normal(size=(2300, 4))
    y = 40 + 3 * x[:, 0] - 2 * x[:, 1] + np.abs(x[:, 2]) + 0.4 * g.normal(size=2300)
    parts = {"train": (x[:300], y[:300]), "test": (x[300:], y[300:])}
    build(from_named(parts, name="small", normalize=["y"]), tmp_path / "small")
    run, found = tmp_path / "run", tmp_path / "found.json"
    lines = (
        ("train", "--data", str(tmp_path / "small"), "-o", str(run), "-q"),
        ("evaluate", str(run), "--json", str(found)),
    )
    for words in lines:
        done = hpcsamp(1, *words, timeout=300)
        assert done.code == 0, done.err
    metrics = json.loads(found.read_text())["metrics"]
    assert 0.85 < metrics["coverage_90"] < 0.99
    assert 0.9 < metrics["sharpness"] / 0.4 < 1.8  # it was 8 when noise was learnt too slowly


def test_what_is_printed_is_a_configuration(sets, hpcsamp, tmp_path):
    data = str(sets / "rows")
    done = hpcsamp(1, "train", "--data", data, "--set", "optimizer.lr=0.5", "--print-config")
    assert done.code == 0, done.err
    (tmp_path / "mine.toml").write_text(done.out)
    assert config.load(str(tmp_path / "mine.toml")).optimizer.lr == 0.5
    chosen, printed = parse_toml(usual(data), "usual"), parse_toml(done.out, "printed")
    chosen["optimizer"]["lr"] = 0.5
    assert printed == chosen  # no defaults that nobody chose, and no empty tables
    every = config.to_toml(config.load(str(tmp_path / "mine.toml")))
    assert not re.search(r"^\[\w+\]\n+(\[|\Z)", every, re.MULTILINE), every
    assert "hidden = [32]" in every
    assert not (tmp_path / "runs").exists()


def test_without_configuration_and_dataset_there_is_nothing_to_train(hpcsamp):
    done = hpcsamp(1, "train")
    assert done.code == 2
    assert "hpcsamp train --data DIR" in done.err


@pytest.mark.parametrize("name", ["ids", "several"])
def test_what_no_network_of_the_package_takes_is_refused(name, sets, hpcsamp):
    with pytest.raises(UsageError, match="hpcsamp init"):
        usual(sets / name)
    done = hpcsamp(1, "train", "--data", str(sets / name))
    assert done.code == 2
    assert "no network of the package accepts" in done.err


def test_a_project_is_not_written_over_another(sets, tmp_path, hpcsamp):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(UsageError, match="is not an empty folder"):
        write(tmp_path / "mine", sets / "rows")
    with pytest.raises(DataError, match="manifest"):
        write(tmp_path / "other", tmp_path)
    assert not (tmp_path / "other").exists()
    done = hpcsamp(1, "init", str(tmp_path / "third"), "--data", str(sets / "rows"))
    assert done.code == 0, done.err
    of = parse_toml((tmp_path / "third" / "run.toml").read_text(), "run.toml")["model"]
    assert of == {"name": "network:Network", "hidden": [32]}  # as hpcsamp train --data chooses
    assert "warning: 28 training items are fewer than 500" in done.err
    assert not few_items(sets / "series")
    assert "bash run.sh" in done.out


def test_the_test_and_the_scripts_of_a_project_run(sets, tmp_path):
    folder = tmp_path / "mine"
    write(folder, sets / "rows")
    seen = read_manifest(folder / parse_toml((folder / "run.toml").read_text(), "")["data"]["path"])
    assert seen.name == "rows"
    (folder / "run.toml").write_text(
        re.sub(r"epochs = \d+", "epochs = 1", (folder / "run.toml").read_text())
    )
    test = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder, capture_output=True, text=True, timeout=300, env=environment(),
    )  # fmt: skip
    assert "1 passed" in test.stdout, test.stdout
    done = subprocess.run(
        ["bash", "run.sh"],
        cwd=folder, capture_output=True, text=True, timeout=300, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "first" / "report" / "index.html").is_file()
    for script in ("run.sh", "job.sh"):
        subprocess.run(["bash", "-n", folder / script], check=True)
