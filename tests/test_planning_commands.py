"""``hpcsamp plan`` and ``hpcsamp bench calibrate``."""

from __future__ import annotations

import json

import pytest
from planning_cases import points, record

from hpcsamp.errors import UsageError
from hpcsamp.planning import calibration, fit

AXES = ("data_groups", "sample_ranks", "model_ranks")


def test_plan(hpcsamp, tmp_path):
    told = tmp_path / "plan.json"
    done = hpcsamp(
        1, "plan", "--model", "swin-era5", "--samples", 16, "--nodes", 2, "--gpus-per-node", 4,
        "--json", told, "--curve", "--picture", tmp_path / "curve.svg", "--simulate",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "compute estimated" in done.out
    assert "best: D x P" in done.out
    found = json.loads(told.read_text())
    grids = {tuple(s[of] for of in AXES) for s in found["splits"]}
    assert {(d, p) for d, p, m in grids if m == 1} == {(1, 8), (2, 4), (4, 2)}
    assert {d * p * m for d, p, m in grids} == {8}
    best = found["best"]
    assert sum(best["phases"].values()) == pytest.approx(best["seconds_per_step"])
    assert best["seconds_per_step"] == min(s["seconds_per_step"] for s in found["splits"])
    assert found["weights"] == pytest.approx(103e6, rel=0.02)
    assert best["memory_bytes"] > 16 * found["trained"]  # parameters, gradient, two moments
    assert [p["nodes"] for p in found["curve"]] == [1, 2]
    assert found["simulated"]["seconds_per_step"] == pytest.approx(
        best["seconds_per_step"], rel=0.05
    )
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_plan_of_a_curriculum_of_rollouts(hpcsamp, tmp_path):
    told = tmp_path / "plan.json"
    done = hpcsamp(
        1, "plan", "mlp-entsoe", "--ranks-per-node", 2, "--json", told,
        "--set", "training.epochs=3", "--set", "training.rollout=[[1, 2], [4, 1]]",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(told.read_text())
    one, four = found["rollout"]
    assert (one["steps"], one["epochs"], one["passes"]) == (1, 2, 1)
    assert four["passes"] > 4
    assert four["seconds_per_step"] == pytest.approx(found["best"]["seconds_per_step"])
    assert four["memory_bytes"] == found["best"]["memory_bytes"] > one["memory_bytes"]
    assert found["best"]["seconds_per_step"] > one["seconds_per_step"]


def test_plan_of_three_axes(hpcsamp, tmp_path):
    told = tmp_path / "plan.json"
    done = hpcsamp(
        1, "plan", "mixer-era5", "--preset", "tiny", "--samples", 2, "--nodes", 2,
        "--gpus-per-node", 4, "--json", told, "--curve", "--simulate",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "D x P x M" in done.out
    found = json.loads(told.read_text())
    grids = {(s["data_groups"], s["sample_ranks"], s["model_ranks"]) for s in found["splits"]}
    assert grids == {(4, 2, 1), (2, 2, 2), (4, 1, 2), (1, 2, 4), (2, 1, 4), (1, 1, 8)}
    by_model = {s["model_ranks"]: s for s in found["splits"] if s["sample_ranks"] == 1}
    assert by_model[4]["phases"]["model exchange"] > 0
    assert by_model[8]["memory_bytes"] < by_model[2]["memory_bytes"]
    assert found["simulated"]["seconds_per_step"] == pytest.approx(
        found["best"]["seconds_per_step"], rel=0.05
    )


def test_models_counts_the_memory_of_a_model_rank(tmp_path):
    from typer.testing import CliRunner

    from hpcsamp.cli import app

    def models(*arguments):
        whole = ["models", "mixer-era5", "--preset", "small", *arguments]
        return CliRunner().invoke(app, whole, env={"COLUMNS": "120"})

    found = {}
    for m in (1, 2):
        file = tmp_path / f"{m}.json"
        done = models("--ranks", "4", "--set", f"parallel.model={m}", "--json", str(file))
        assert done.exit_code == 0, done.output
        assert ("on P = 2 ranks of M = 2 model ranks" in " ".join(done.output.split())) == (m == 2)
        found[m] = json.loads(file.read_text())
    assert found[1]["trained"] == found[2]["trained"]
    means = {m: f["parts"][1]["bytes"] for m, f in found.items()}
    assert means[2] == pytest.approx(means[1] / 2, rel=0.02)
    refused = models("--ranks", "3", "--set", "parallel.model=2").exception
    assert str(refused) == "parallel.model = 2 does not divide the 3 ranks"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mixer-era5", "--preset", "tiny", "--set", "parallel.model=3"],
         "parallel.model = 3 does not divide the 4 ranks"),
        (["mixer-era5", "--preset", "tiny", "--nodes", "5", "--set", "parallel.model=5"],
         "mixer: parallel.model = 5: no grid of 5 ranks"),
        (["mlp-entsoe", "--set", "parallel.model=2"],
         "layers.1, a Linear, holds its weights whole and cannot be split over 2 model ranks"),
        (["vit-cifar10", "--set", "parallel.model=2"],
         r"augment\.crop moves values along axis 1 of x, but this rank has only the part 16:32"),
        (["vit-cifar10", "--site", "horeko"], "did you mean 'horeka'.*alps, frontier"),
        (["vit-cifar10", "--samples", "2", "--nodes", "64", "--batch", "100"],
         "no grid of 256 ranks: with S = 2 .* D = 128 data groups, and a batch of 100"),
        (["nothing-there"], "nothing-there is not a file, a configuration"),
        ([], "nothing to plan"),
        (["vit-cifar10", "--calibration", "no.json"], "--calibration no.json: No such file"),
        (["--check", "no.jsonl"], "--check no.jsonl: No such file"),
    ],
)  # fmt: skip
def test_bad_plans(arguments, told, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from hpcsamp.cli import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, UsageError)
    assert "\n" not in str(result.exception)
    assert __import__("re").search(told, str(result.exception)), result.exception


def test_check_of_records(tmp_path):
    from typer.testing import CliRunner

    from hpcsamp.cli import app

    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(record(p)) + "\n" for p in points(noise=0.01)))
    out = tmp_path / "error.json"
    result = CliRunner().invoke(app, ["plan", "--check", str(path), "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["held_back"]["points"] == len(fit.hold_back(points())[1])
    assert 0 < found["held_back"]["median"] < 0.03
    assert "held-out points: median" in result.output


def test_calibrate(hpcsamp, tmp_path):
    out, steps, plan = (tmp_path / n for n in ("c.json", "steps.jsonl", "plan.json"))
    done = hpcsamp(
        2, "bench", "calibrate", "mlp-entsoe:small", "vit-cifar10:small", "--batches", "2,8",
        "--check", "--check-samples", "2,3", "--check-batches", 4, "--repeat", 1,
        "--collectives", "mpi", "-o", out, "--records", steps, timeout=150,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = calibration.load(out)
    assert found.ranks == 2
    assert found.draw > 0
    assert found.link is not None
    assert [m.name for m in found.models] == ["mlp-entsoe:small", "vit-cifar10:small"]
    # each of them is fitted to times and may be zero on a busy machine
    assert all(m.overhead + m.base + m.per_item > 0 for m in found.models)
    measured = fit.read(steps)
    assert {(p.model, p.samples, p.ranks) for p in measured} == {
        (m.name, s, r) for m in found.models for s in (2, 3) for r in (1, 2)
    }
    done = hpcsamp(
        1, "plan", "vit-cifar10", "--preset", "small", "--calibration", out, "--json", plan,
        "--ranks-per-node", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(plan.read_text())
    assert (told["origin"], told["site"]) == ("measured", "local")
    assert "warning" not in done.err
