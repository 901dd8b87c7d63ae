"""The moving average of the weights: its formula, evaluations with it, and resuming."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hpcsamp import config as configuration
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.methods import MeanField
from hpcsamp.run import checkpoint
from hpcsamp.run.average import Average
from hpcsamp.training.loop import Trainer


def test_the_average_is_the_formula_and_leaves_the_weights_alone():
    torch.manual_seed(0)
    method = MeanField(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval()).double())
    average, decay, path = Average(method, 0.9), 0.9, []
    for step in range(1, 8):
        with torch.no_grad():
            method.mean.add_(torch.randn_like(method.mean))
            method.module[1].running_mean.add_(1.0)
        method.step = step
        average.update()
        path.append((method.mean.clone(), method.module[1].running_mean.clone()))
        factors = [
            (1 - decay) * decay ** (step - i) / (1 - decay**step) for i in range(1, step + 1)
        ]
        assert sum(factors) == pytest.approx(1)
        with average.in_place():
            for place, found in enumerate((method.mean, method.module[1].running_mean)):
                want = sum(f * values[place] for f, values in zip(factors, path, strict=True))
                assert torch.allclose(found, want, rtol=1e-12)
        assert torch.equal(method.mean, path[-1][0])
        assert torch.equal(method.module[1].running_mean, path[-1][1])
    fixed = method.log_std.clone()
    with average.in_place():
        assert torch.equal(method.log_std, fixed)  # what does not move has no rounding


def test_runs_evaluate_the_average_on_any_grid_and_resume_to_the_bit(
    commands, hpcsamp, small, tmp_path
):
    given = ["--set=training.ema=0.8"]
    for name in ("mean_field", "ensemble"):
        method = [f"--set=method.name={name}"]
        whole, parts, one = (tmp_path / f"{name}-{run}" for run in ("whole", "parts", "one"))
        done = commands(
            2,
            ["train", small, "-o", whole, *given, *method],
            ["train", small, "-o", parts, *given, *method, "--set=training.steps=25"],
            ["train", small, "-o", parts, *given, *method, "--resume"],
            ["evaluate", whole, "--split", "valid", "--json", whole / "valid.json"],
        )
        assert done.code == 0, done.err
        kept = [checkpoint.read(checkpoint.latest(r / "checkpoints")) for r in (whole, parts)]
        for state in ("method", "average"):
            assert kept[0][state].keys() == kept[1][state].keys()
            for key, value in kept[0][state].items():
                assert torch.equal(value, kept[1][state][key]), (state, key)
        moved = next(iter(kept[0]["method"]))
        assert not torch.equal(kept[0]["method"][moved], kept[0]["average"][moved])
        lines = [json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()]
        *seen, last, again = (e for e in lines if e["event"] == "valid")
        evaluated = json.loads((whole / "valid.json").read_text())["metrics"]
        assert evaluated["nll"] == again["nll"] == pytest.approx(last["nll"], rel=1e-10)
        assert hpcsamp(1, "train", small, "-o", one, *given, *method).code == 0
        alone = [json.loads(x) for x in (one / "metrics.jsonl").read_text().splitlines()]
        alone = [e["nll"] for e in alone if e["event"] == "valid"]
        assert alone == pytest.approx([e["nll"] for e in (*seen, last)], rel=1e-10)


def test_methods_with_a_path_of_their_own_have_no_average(small, tmp_path):
    settings = ["method.name=swag", "method.start=0.5", "method.rank=2", "training.ema=0.9"]
    with pytest.raises(UsageError, match=r"training.ema = 0.9: SWAG predicts from weights"):
        Trainer(configuration.load(small, settings), init(), tmp_path / "run")
