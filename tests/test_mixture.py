"""Several finished runs evaluated as one predictive: by its formula, and on any grid."""

from __future__ import annotations

import json

import pytest
import torch

import hpcsamp as hs
from hpcsamp.cli.evaluate import evaluate
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError


@pytest.fixture(scope="module")
def runs(small, commands, tmp_path_factory):
    """Two runs that differ in method, network and seed, and their evaluations on one rank."""
    folder = tmp_path_factory.mktemp("mixture")
    common = ["--set", "training.epochs=1"]
    other = ["--set", "method.name=ensemble", "--set", "seed=8", "--set", "model.hidden=[8]"]
    more = ["--set", "evaluation.samples=5"]
    done = commands(
        1,
        ["train", small, "--output", folder / "a", *common],
        ["train", small, "--output", folder / "b", *common, *other],
        ["train", small, "--output", folder / "c", *common, *more],
        ["evaluate", folder / "a", folder / "b", "--json", folder / "one.json"],
        timeout=120,
    )
    assert done.code == 0, done.err
    return folder


def test_a_mixture_is_the_mean_of_the_predictives(runs, digits):
    found = json.loads((runs / "one.json").read_text())
    test = Dataset.open(digits, "test")
    x, y = test.read(range(test.count))
    each = [hs.load(runs / name, samples=6).predict(x).probabilities.values for name in "ab"]
    p = torch.from_numpy((each[0] + each[1]) / 2)
    nll = -p[torch.arange(len(y)), torch.as_tensor(y)].log().mean()
    assert found["metrics"]["nll"] == pytest.approx(float(nll), rel=1e-6)
    accuracy = (p.argmax(1) == torch.as_tensor(y)).double().mean()
    assert found["metrics"]["accuracy"] == pytest.approx(float(accuracy))
    assert [of["method"] for of in found["runs"]] == ["mean_field", "ensemble"]
    assert not (runs / "a" / "evaluation").exists()


def test_a_mixture_does_not_depend_on_the_grid(runs, commands, refusals):
    one = json.loads((runs / "one.json").read_text())
    done = commands(3, ["evaluate", runs / "a", runs / "b", "--json", runs / "three.json"])
    assert done.code == 0, done.err
    three = json.loads((runs / "three.json").read_text())
    assert three["metrics"] == pytest.approx(one["metrics"], rel=1e-10)
    [samples] = refusals(2, ["evaluate", runs / "a", runs / "c"])
    assert samples.code == 2
    assert "different numbers of samples (see --samples): 6 and 5" in samples.err


def test_out_of_distribution_items_take_one_run(tmp_path):
    with pytest.raises(UsageError, match="--ood takes one run"):
        evaluate([tmp_path / "a", tmp_path / "b"], ood=tmp_path)
