"""Several finished runs evaluated as one predictive: by its formula, and on any grid."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

import hpcsamp as hs
from hpcsamp.cli.evaluate import evaluate
from hpcsamp.cli.predict import _runs_and_table
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.report import build
from hpcsamp.weights.calling import Outputs


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
        ["predict", folder / "a", folder / "b", "--out", folder / "one.h5", "--keep-samples"],
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


def test_a_report_shows_the_mixture_next_to_its_members(runs, tmp_path):
    both, file = [runs / "a", runs / "b"], runs / "one.json"
    found = json.loads(file.read_text())
    made = build(both, tmp_path / "page", mixture=file)
    html = made.page.read_text()
    heading = '<th scope="col">a</th><th scope="col">b</th><th scope="col">mixture</th>'
    assert heading in html
    assert f'<td data-run="mixture">{found["metrics"]["nll"]:.4g}</td>' in html
    assert (tmp_path / "page" / "reliability-3.png") in made.pictures
    assert not [note for note in made.notes if "of mixture" in note]
    (tmp_path / "cut.json").write_text(file.read_text()[:-20])
    (tmp_path / "own.json").write_text(json.dumps(found["runs"][0]))
    for of, file_, split, words in (
        (both[:1], file, "test", r"a mixture of other runs \(2\) than those of the page \(1\)"),
        ([*both, runs / "c"], file, "test", "other runs"),
        (both, file, "valid", "an evaluation on test, but the page is on valid"),
        (both, tmp_path / "cut.json", "test", "is not the evaluation of a mixture"),
        (both, tmp_path / "own.json", "test", "is not the evaluation of a mixture"),
        (both, tmp_path / "no.json", "test", "cannot read"),
    ):
        with pytest.raises(UsageError, match=words):
            build(of, tmp_path / "no", split=split, mixture=file_)


def test_a_mixture_does_not_depend_on_the_grid(runs, commands, refusals):
    one = json.loads((runs / "one.json").read_text())
    done = commands(
        3,
        ["evaluate", runs / "a", runs / "b", "--json", runs / "three.json"],
        ["predict", runs / "a", runs / "b", "--out", runs / "three.h5", "--keep-samples"],
    )
    assert done.code == 0, done.err
    three = json.loads((runs / "three.json").read_text())
    assert three["metrics"] == pytest.approx(one["metrics"], rel=1e-10)
    with h5py.File(runs / "one.h5") as f, h5py.File(runs / "three.h5") as g:
        assert f.keys() == g.keys()
        for name in f:
            np.testing.assert_allclose(g[name][()], f[name][()], rtol=1e-10, err_msg=name)
    out = ["--out", runs / "refused.h5"]
    refused = refusals(
        2,
        ["evaluate", runs / "a", runs / "c"],
        ["predict", runs / "a", runs / "c", *out],
        ["predict", runs / "a", runs / "b", *out, "--rollout", "2"],
    )
    assert [done.code for done in refused] == [2, 2, 2]
    assert all(len(done.errors) == 1 for done in refused)
    for done in refused[:2]:
        assert "different numbers of samples (see --samples): 6 and 5" in done.err
    assert "--rollout takes one run, not 2" in refused[2].err


def test_a_mixture_in_python_is_that_of_the_command(runs, digits):
    mixture = hs.load([runs / "a", runs / "b"])
    x = Dataset.open(digits, "test").read(range(40))[0]
    found = mixture.predict(x, keep_samples=True)
    with h5py.File(runs / "one.h5") as f:
        for name, values in found.data_vars.items():
            np.testing.assert_allclose(values, f[name][:40], rtol=1e-10, atol=1e-12, err_msg=name)
        assert f.attrs["method"] == found.attrs["method"] == "mean_field, ensemble"
        assert f.attrs["samples"] == mixture.samples == 12
    each = [hs.load(runs / name).predict(x).probabilities for name in "ab"]
    np.testing.assert_allclose(found.probabilities, (each[0] + each[1]) / 2, rtol=1e-10)
    more = hs.load([runs / "a", runs / "c"], samples=3).predict(x, samples=4)
    assert more.attrs["samples"] == 8
    with pytest.raises(UsageError, match="cannot be mixed: they have different numbers of samples"):
        hs.load([runs / "a", runs / "c"])
    with pytest.raises(UsageError, match="at least one run folder"):
        hs.load([])
    assert len(mixture.runs[1].sample(2)) == len(mixture.runs[0].sample(2))


def test_arguments_are_runs_and_a_last_table(tmp_path):
    (tmp_path / "a.b").mkdir()
    run, folder, table = tmp_path / "a", tmp_path / "a.b", tmp_path / "t.csv"
    assert _runs_and_table([run]) == ([run], None)
    assert _runs_and_table([run, folder]) == ([run, folder], None)
    assert _runs_and_table([run, folder, table]) == ([run, folder], table)
    assert _runs_and_table([table]) == ([table], None)


def test_out_of_distribution_items_take_one_run(tmp_path):
    with pytest.raises(UsageError, match="--ood takes one run"):
        evaluate([tmp_path / "a", tmp_path / "b"], ood=tmp_path)


def test_outputs_that_are_packed_differently_are_refused(runs):
    mixture = hs.load([runs / "a", runs / "b"])
    methods = [run.method for run in mixture.runs]
    for method, names in zip(methods, ("ab", "ba"), strict=True):
        method.__class__ = type(
            "Packed", (type(method),), {"outputs": Outputs(dict.fromkeys(names, (2,)))}
        )
    with pytest.raises(UsageError, match=r"different outputs: .*'a'.*'b'.* and .*'b'.*'a'"):
        mixture.joined([torch.zeros(1, 2, 4)] * 2)
