"""Estimated batch normalisation statistics of prediction samples: equal to torch, on any grid."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import torch

import hpcsamp as hs
from hpcsamp.data import Dataset
from hpcsamp.data.order import Order
from hpcsamp.errors import DataError

CODE = """
from torch import nn

def net(in_shape=(3,), outputs=2):
    frozen = nn.BatchNorm1d(8).eval()
    norm = nn.BatchNorm1d(8)
    parts = [nn.Linear(3, 8), norm, nn.ReLU(), nn.Linear(8, 8), norm, frozen]
    return nn.Sequential(*parts, nn.Linear(8, outputs))
"""
CONFIG = """task = "regression"
[data]
path = "{}"
batch = 20
[model]
name = "ownnet:net"
[method]
name = "swag"
samples = 3
start = 0.3
every = 1
rank = 2
[loss]
name = "expected_nll"
[optimizer]
name = "SGD"
lr = 0.05
[training]
epochs = 4
precision = "float64"
[evaluation]
samples = 7
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, commands):
    """A run with its dataset, and predictions of it on several grids."""
    folder = tmp_path_factory.mktemp("estimated")
    (folder / "ownnet.py").write_text(CODE)
    x = np.random.default_rng(1).normal(size=(110, 3)) * [1, 2, 3] + 1
    parts = {"x": x[:70], "x_valid": x[70:90], "x_test": x[90:]}
    parts |= {name.replace("x", "y"): x[:, :1] ** 2 for name, x in parts.items()}
    np.savez(folder / "set.npz", **parts)
    (folder / "run.toml").write_text(CONFIG.format(folder / "set"))
    predict = ["predict", folder / "run", "--split", "test", "--keep-samples"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.syspath_prepend(str(folder))
        grids = {1: ["1"], 2: ["none", "2"], 3: ["none", "3"]}
        for ranks, spans in grids.items():
            lines = [
                [*predict, "--out", folder / f"{ranks}-{p}.h5", "--set", f"parallel.samples={p}"]
                for p in spans
            ]
            if ranks == 1:
                ingest = ["ingest", "npz", folder / "set.npz", "--out", folder / "set"]
                train = ["train", folder / "run.toml", "--output", folder / "run"]
                other = [*predict, "--out", folder / "running.h5"]
                other += ["--set", "evaluation.batch_norm=running"]
                lines = [ingest, train, *lines, other]
            done = commands(ranks, *lines)
            assert done.code == 0, done.err
            assert "running ones" not in done.err
        yield folder


def predicted(run, name):
    with h5py.File(run / f"{name}.h5") as f:
        return f["samples"][:]


def test_predictions_are_the_same_on_any_grid(run):
    one = predicted(run, "1-1")
    for name in ("2-none", "2-2", "3-none", "3-3"):
        np.testing.assert_allclose(predicted(run, name), one, rtol=1e-10, atol=1e-12)
    assert np.abs(predicted(run, "running") - one).max() > 1e-3 * np.abs(one).max()


def test_a_draw_has_the_statistics_that_torch_estimates(run):
    posterior = hs.load(run / "run")
    with Dataset.open(run / "set", "test") as found:
        raw = found.read(range(found.count))[0]
    kept = posterior.predict(raw, keep_samples=True, batch=7).samples
    np.testing.assert_allclose(kept, predicted(run, "1-1"), rtol=1e-10, atol=1e-12)
    with Dataset.open(run / "set", "train") as train:
        stats, order = train.stats, Order(train.count, 20, seed=posterior.config.seed)
        x = torch.from_numpy((train.read(range(train.count))[0] - stats.mean) / stats.std)
    for sample in range(7):
        found, plain = posterior.module(sample), posterior.module(sample)
        inner = next(m for m in plain.modules() if len(list(m.children())) > 1)
        norm, frozen = inner[1], inner[5]
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
        with torch.no_grad():
            for step in range(3):
                plain(x[order.step(0, step).items])
        expected = dict(plain.named_buffers())
        for name, value in found.named_buffers():
            if "running" in name:
                torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)
        assert not frozen.running_mean.any()  # it was never in training mode


def test_without_the_training_set_the_running_statistics_are_used_and_a_line_says_so(run, capsys):
    with Dataset.open(run / "set", "test") as found:
        raw = found.read(range(found.count))[0]
    shutil.move(run / "set", run / "away")
    try:
        kept = hs.load(run / "run").predict(raw, keep_samples=True).samples
        assert capsys.readouterr().err.count("uses the running statistics of training") == 1
        np.testing.assert_allclose(kept, predicted(run, "running"), rtol=1e-10, atol=1e-12)
        asked = hs.load(run / "run", settings=["evaluation.batch_norm=estimated"])
        with pytest.raises(DataError, match=r"evaluation.batch_norm = .estimated. needs the train"):
            asked.predict(raw)
    finally:
        shutil.move(run / "away", run / "set")
