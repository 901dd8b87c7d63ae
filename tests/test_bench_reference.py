"""Held-out likelihoods beside scikit-learn's: same splits, same definitions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error

from hpcsamp.bench.reference import METHODS, Fit, method, models_of, split, table


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_split_is_dealt_once_and_standardised_by_its_training_items():
    for name, items in (("diabetes", 442), ("breast_cancer", 569), ("digits", 1797)):
        data = split(name, 3)
        assert len(data.x_test) == -(-items // 5)
        assert len(data.x) + len(data.x_test) == items
        assert np.abs(data.x.mean(0)).max() < 1e-12
        assert np.array_equal(split(name, 3).x_test, data.x_test)
        assert not np.array_equal(split(name, 4).x_test, data.x_test)
    assert data.classes == 10
    assert split("diabetes", 0).unit == pytest.approx(77, abs=5)  # of the target


def test_the_references_are_judged_as_scikit_learn_does():
    data = split("breast_cancer", 1)
    model = LogisticRegression(max_iter=2000).fit(data.x, data.y)
    found = Fit("breast_cancer", "LogisticRegression", 1).run()
    assert found["nll"] == pytest.approx(log_loss(data.y_test, model.predict_proba(data.x_test)))
    assert found["accuracy"] == accuracy_score(data.y_test, model.predict(data.x_test))
    data = split("diabetes", 1)
    found = Fit("diabetes", "BayesianRidge", 1).run()
    mean, std = BayesianRidge().fit(data.x, data.y).predict(data.x_test, return_std=True)
    mean, std, y = mean * data.unit, std * data.unit, data.y_test * data.unit
    assert found["rmse"] == pytest.approx(root_mean_squared_error(y, mean))
    nll = 0.5 * ((y - mean) / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)
    assert found["nll"] == pytest.approx(nll.mean())


@pytest.mark.parametrize("model", METHODS)
def test_every_method_of_the_table_learns(model):
    """A few epochs: better than to know nothing of an item."""
    usual = METHODS[model]["breast_cancer"]
    arguments = dict(usual.arguments) | ({"snapshots": 1, "cycles": 1} if model == "sgld" else {})
    few = replace(usual, epochs=4, arguments=arguments, samples=2)
    found = method(model, split("breast_cancer", 0), few, 0)
    assert found["nll"] < 0.4  # the entropy of the classes is 0.66
    assert found["accuracy"] > 0.9


def test_mean_field_predicts_digits_well():
    """A split that is not in the table. One std for all layers and small steps give 0.17."""
    found = method("mean_field", split("digits", 100), METHODS["mean_field"]["digits"], 100)
    assert found["nll"] < 0.12


def test_the_table_has_mean_and_spread_over_seeds():
    found = {Fit("digits", "a", s): {"nll": v} for s, v in enumerate((1.0, 2.0, 4.0))}
    (row,) = table(found)
    assert row["nll"] == pytest.approx({"mean": 7 / 3, "std": np.std([1, 2, 4], ddof=1)})


def test_bench_reference_shares_its_fits_out(hpcsamp, tmp_path):
    models = ["--model=LogisticRegression", "--model=MLPClassifier"]
    out = ["--data=breast_cancer", "--seeds=2", *models, "--json", tmp_path / "t.json"]
    done = hpcsamp(1, "bench", "reference", *out, timeout=120)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [r["model"] for r in rows] == ["LogisticRegression", "MLPClassifier"]
    alone = [Fit("breast_cancer", "MLPClassifier", seed).run()["nll"] for seed in (0, 1)]
    assert rows[1]["nll"]["mean"] == pytest.approx(np.mean(alone))
    assert f"{np.mean(alone):.3f} +- " in done.out


def test_bench_reference_names_what_there_is(hpcsamp):
    assert "mc_dropout" in models_of("digits")
    done = hpcsamp(1, "bench", "reference", "--data=digit")
    assert done.code == 2
    assert len(done.errors) == 1
    known = "diabetes, breast_cancer, digits"
    assert f"'digit'; did you mean 'digits'?; choose from {known}" in done.err
