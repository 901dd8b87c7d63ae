"""Evaluation and prediction: the same on any grid, in files that others read, and never by half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import environment
from patience import patient
from scipy import integrate, stats

from hpcsamp.collectives import Alone
from hpcsamp.errors import DataError, UsageError
from hpcsamp.losses import Gaussian, Poisson, PredictedGaussian, StudentT
from hpcsamp.metrics.mixtures import crps, normal_cdf, quantiles
from hpcsamp.tasks.components import Samples, distribution_function
from hpcsamp.tasks.gathered import of_all_samples

# Runs -------------------------------------------------------------------------------------------

#: Untrained runs: what is tested does not depend on what was learnt.
MAKE = """
import sys
from pathlib import Path
import torch
from hpcsamp import config
from hpcsamp.data import Dataset
from hpcsamp.ingest.build import build as ingest
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.grid import init
from hpcsamp.run import checkpoint
from hpcsamp.run.assemble import Run
from hpcsamp.run.folder import RunFolder

place = Path(sys.argv[1])
sets = {
    "digits": synthetic("digits", 110),
    "other": synthetic("digits", 50, seed=9),
    "entsoe": synthetic("entsoe", 110),
    "era5": synthetic("era5", 70, grid=(4, 6)),
    "colours": synthetic("cifar10", 20),
}
for name, source in sets.items():
    ingest(source, place / name)
runs = {
    "classes": ("digits", "classification", "mean_field", "expected_nll", {}, {}),
    "series": ("entsoe", "regression", "mean_field", "predictive_nll", {},
               {"name": "predicted_gaussian"}),
    "fields": ("era5", "regression", "mean_field", "expected_nll", {},
               {"name": "gaussian", "std": 0.2}),
    "members": ("entsoe", "regression", "ensemble", "own_loss:Mine", {}, {}),
    "fitted": ("entsoe", "regression", "mean_field", "mean_mse", {}, {}),
    "chains": ("digits", "classification", "sgld", "expected_nll",
               {"cycles": 1, "snapshots": 12}, {}),
}
topology = init("world")
for name, (data, task, method, loss, arguments, likelihood) in runs.items():
    table = {
        "task": task, "data": {"path": str(place / data)}, "model": {"name": "mlp", "hidden": [8]},
        "method": {"name": method, "samples": 5, **arguments},
        "loss": {"name": loss}, "likelihood": likelihood,
        "training": {"precision": "float64"},
        "evaluation": {"batch": 4, "samples": 57 if method == "sgld" else 5},
    }
    checked = config.check(table)
    folder = RunFolder(place / name)
    folder.prepare(checked, False)
    dataset = Dataset.open(place / data, "train")
    made = Run.of(checked, dataset, topology).method
    if method == "sgld":
        made.bank.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        made.taken.fill_(12)
    checkpoint.save(checkpoint.step_path(folder.checkpoints, 3), {
        "step": 3, "best": 0.0, "config": checked.model_dump(mode="json", exclude_none=True),
        "dataset": dataset.uid, "method": made.state_dict(), "optimizer": {}, "schedule": None,
    })
"""

#: Evaluates and predicts with all of them.
RUN = """
import shutil, sys
from pathlib import Path
from hpcsamp.cli.output import write_json
from hpcsamp.grid import init
from hpcsamp.prediction.evaluate import evaluate_run
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import predict
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.restore import restore

place, out, names, samples = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
topology = init(int(samples) if samples.isdigit() else samples)
for name in names.split(","):
    folder = RunFolder(place / name)
    if topology.is_root:
        (folder.path / "noise.json").unlink(missing_ok=True)  # each grid estimates it
    posterior = Posterior(restore(folder, folder.config(), topology), topology)
    ood = place / "other" if name == "classes" else None
    result = evaluate_run(posterior, ood=ood)
    predict(posterior, out / f"{name}.h5", keep_samples=True)
    if topology.is_root:
        write_json(out / f"{name}.json", result)
        shutil.copy(place / name / "evaluation" / "test.h5", out / f"{name}-items.h5")
"""
NAMES = ("classes", "series", "fields", "members", "fitted", "chains")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def runs(tmp_path_factory, script, monkeypatch_module):
    place = tmp_path_factory.mktemp("runs")
    (place / "own_loss.py").write_text("from hpcsamp import losses\nclass Mine(losses.CRPS): ...\n")
    monkeypatch_module.setenv("PYTHONPATH", str(place))
    done = script(1, f"import sys; sys.argv = ['', {str(place)!r}]\n{MAKE}", timeout=120)
    assert done.code == 0, done.err
    return place


def everything(runs, script, out, ranks, samples, names=NAMES):
    out.mkdir()
    arguments = ["", str(runs), str(out), ",".join(names), samples]
    done = script(ranks, f"import sys; sys.argv = {arguments!r}\n{RUN}", timeout=200)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def serial(runs, script, tmp_path_factory):
    return everything(runs, script, tmp_path_factory.mktemp("out") / "serial", 1, "world")


def same(a, b, where=""):
    """Nested results agree to 1e-10."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-10), where
    else:
        assert a == b, where


@pytest.mark.parametrize(("ranks", "samples"), [(2, "none"), (3, "world"), (4, "2")])
def test_any_grid_gives_the_same(runs, serial, script, tmp_path, ranks, samples):
    names = [n for n in NAMES if ranks != 2 or n in ("classes", "fields")]
    out = everything(runs, script, tmp_path / "out", ranks, samples, names)
    for name in names:
        same(*(json.loads((p / f"{name}.json").read_text()) for p in (serial, out)), name)
        for file in (f"{name}.h5", f"{name}-items.h5"):
            with h5py.File(serial / file) as a, h5py.File(out / file) as b:
                assert set(a) == set(b)
                same(*({k: np.asarray(v).tolist() for k, v in f.attrs.items()} for f in (a, b)))
                for key in a:
                    if a[key].dtype.kind == "O":
                        assert a[key][:].tolist() == b[key][:].tolist()
                    else:
                        assert np.allclose(
                            a[key][:], b[key][:], rtol=1e-10, atol=1e-10, equal_nan=True
                        ), key


# What is in the files -----------------------------------------------------------------------------


def opened(path):
    xarray = pytest.importorskip("xarray")
    return xarray.load_dataset(path, engine="h5netcdf")


def test_a_field_opens_in_xarray_with_its_coordinates(runs, serial):
    found = opened(serial / "fields.h5")
    assert found["mean"].dims == ("index", "target_channel", "latitude", "longitude")
    assert found["quantiles"].dims[:2] == ("index", "quantile")
    assert found["latitude"].values.tolist() == np.linspace(-90, 90, 4).tolist()
    assert found["latitude"].attrs["units"] == "degrees_north"
    assert str(found["target_channel"].values[3]) == "2m_temperature"
    assert str(found["time"].values[1]).startswith("2000-01-01T03")
    assert found.attrs["samples"] == 5
    with h5py.File(next((runs / "era5").glob("shard-*2.h5"))) as f:
        assert np.allclose(found["target"], f["y"][:], atol=1e-6)
    low, middle, high = (found["quantiles"].sel(quantile=q) for q in (0.05, 0.5, 0.95))
    assert (low < middle).all()
    assert (middle < high).all()


@pytest.mark.parametrize("name", ["fields", "series"])
def test_metrics_are_those_of_the_predictions_in_physical_units(serial, name):
    found, told = opened(serial / f"{name}.h5"), json.loads((serial / f"{name}.json").read_text())
    error = found["mean"] - found["target"]
    weight = 1.0
    if name == "fields":
        weight = np.cos(np.deg2rad(found["latitude"]))
        weight = weight / weight.mean()
        assert told["units"]["rmse"] == "standard deviations"
        assert "cos(latitude)" in told["definitions"]["weights"]
    else:
        rmse = float((error**2).mean() ** 0.5)
        assert told["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-9)
        assert told["units"]["rmse"] == "MW"
        assert rmse > 1000
        low = found["quantiles"].sel(quantile=0.05)
        inside = (found["target"] >= low) & (
            found["target"] <= found["quantiles"].sel(quantile=0.95)
        )
        assert told["metrics"]["coverage_90"] == pytest.approx(float(inside.mean()), abs=1e-12)
    first = next(d for d in found["mean"].dims if d != "index")
    over = [d for d in found["mean"].dims if d != first]
    assert told["rows"]["rmse"] == pytest.approx(
        np.sqrt((error**2 * weight).mean(over)).values, rel=1e-9
    )
    assert told["rows"]["bias"] == pytest.approx((error * weight).mean(over).values, rel=1e-7)
    samples = told["samples"]  # std is that of the mixture, spread an unbiased estimate
    unbiased = found["std_aleatoric"] ** 2 + found["std_epistemic"] ** 2 * samples / (samples - 1)
    spread = np.sqrt((unbiased * weight).mean(over)).values
    assert told["rows"]["spread"] == pytest.approx(spread, rel=1e-9)
    assert set(told["metrics"]) <= told["definitions"].keys()
    total = found["std_aleatoric"] ** 2 + found["std_epistemic"] ** 2
    assert np.allclose(total, found["std"] ** 2, rtol=1e-9)


def test_kept_samples_are_those_of_the_mean(serial):
    found = opened(serial / "series.h5")
    assert np.allclose(found["samples"].mean("sample"), found["mean"], rtol=1e-12)
    assert np.allclose(found["samples"].std("sample"), found["std_epistemic"], rtol=1e-8)
    classes = opened(serial / "classes.h5")
    assert np.allclose(classes["samples"].mean("sample"), classes["probabilities"], rtol=1e-10)
    p = classes["probabilities"].values
    assert classes["total"].values == pytest.approx(stats.entropy(p, axis=1), rel=1e-9)
    each = stats.entropy(classes["samples"].values, axis=2).mean(1)
    assert classes["aleatoric"].values == pytest.approx(each, rel=1e-9)


def test_samples_without_noise_are_scored_as_they_are(serial):
    found, told = opened(serial / "members.h5"), json.loads((serial / "members.json").read_text())
    assert told["noise"] == {"std": 0, "source": "none: the samples are the distribution"}
    assert "nll" not in told["metrics"]
    y, t = found["samples"].values, found["target"].values
    score = abs(y - t[:, None]).mean(1) - abs(y[:, :, None] - y[:, None]).mean((1, 2)) / 2
    assert told["metrics"]["crps"] == pytest.approx(score.mean(), rel=1e-9)
    rank = (y < t[:, None]).sum(1)
    edges = np.linspace(0, 1, 21)  # a target of rank r is spread evenly over r/6 .. (r + 1)/6
    cdf = np.clip(6 * edges[:, None] - rank.ravel(), 0, 1).mean(1)
    assert told["reliability"]["pit"] == pytest.approx(np.diff(cdf), abs=1e-12)
    assert told["unattained"].keys() == {"coverage_80", "coverage_90", "coverage_95"}
    ordered = np.sort(y, axis=1)  # 5 samples: from the least to the largest is 4/6
    hit = (t >= ordered[:, 0]) & (t <= ordered[:, -1])
    inner = (t >= ordered[:, 1]) & (t <= ordered[:, -2])
    share = (0.5 - 1 / 3) / (2 / 3 - 1 / 3)  # coverage between two levels is interpolated
    expected = inner.mean() + share * (hit.mean() - inner.mean())
    assert told["metrics"]["coverage_50"] == pytest.approx(expected, abs=1e-12)


def test_noise_is_chosen_by_the_validation_split(runs, serial, script):
    told = json.loads((serial / "fitted.json").read_text())["noise"]
    assert told["source"] == "estimated on valid"
    code = f"""
from hpcsamp.losses import Gaussian
from hpcsamp.grid import init
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.restore import restore
folder = RunFolder({str(runs / "fitted")!r})
topology = init("world")
posterior = Posterior(restore(folder, folder.config(), topology), topology)
best = posterior.likelihood.std
for factor in (0.9, 1.0, 1.1):
    posterior.likelihood = Gaussian(best * factor)
    evaluator = posterior.evaluator(posterior.open(None, "valid"))
    print(evaluator.run(posterior.method).metrics["nll"])
    evaluator.close()
"""
    done = script(1, code, timeout=120)
    low, best, high = (float(line) for line in done.out.split())
    assert best < min(low, high)


# Mixtures against scipy ---------------------------------------------------------------------------


def mixture(samples=7, values=40, seed=0):
    rng = np.random.default_rng(seed)
    mean = torch.from_numpy(rng.normal(0, 2, (samples, values)))
    std = torch.from_numpy(rng.uniform(0.01, 1.5, (samples, values)))
    return mean, std, torch.from_numpy(rng.normal(0, 2, values))


def test_crps_is_the_integral_of_its_definition():
    mean, std, target = mixture(values=6)
    got = crps(mean, std, target)
    for i in range(6):
        part = stats.norm(mean[:, i], std[:, i])
        t = float(target[i])
        below, _ = integrate.quad(lambda x, d=part: d.cdf(x).mean() ** 2, -20, t, limit=300)
        above, _ = integrate.quad(lambda x, d=part: d.sf(x).mean() ** 2, t, 20, limit=300)
        assert float(got[i]) == pytest.approx(below + above, rel=1e-7)


def test_quantiles_of_normal_mixtures_and_of_points():
    mean, std, _ = mixture()
    levels = torch.tensor([0.001, 0.05, 0.5, 0.9, 0.999], dtype=torch.float64)
    found = quantiles(mean, std, levels)
    for q, x in zip(levels, found, strict=True):
        assert stats.norm(mean, std).cdf(x).mean(0) == pytest.approx(float(q), abs=1e-9)
    # far components make Newton's steps cycle in one of so many
    many = torch.randn(8, 200_000, generator=torch.Generator().manual_seed(0)).double()
    narrow = torch.full_like(many, 0.2)
    median = quantiles(many, narrow, levels[2:3])[0]
    assert float((normal_cdf(many, narrow, median).mean(0) - 0.5).abs().max()) < 1e-11
    points = quantiles(mean, 0 * std, levels)
    expected = np.quantile(mean.numpy(), levels.numpy(), axis=0, method="inverted_cdf")
    assert points.numpy() == pytest.approx(expected, rel=1e-9)
    assert float(normal_cdf(mean[:, :1], 0 * std[:, :1], mean[:1, :1]).mean()) in np.arange(15) / 14


def test_pieces_of_bounded_size_change_nothing(monkeypatch):
    mean, std, target = mixture()
    monkeypatch.setattr("hpcsamp.tasks.gathered.CHUNK", 21)  # three values at a time
    score, found = of_all_samples(mean, std, [7], Alone(), target=target, levels=(0.2, 0.7))
    assert torch.allclose(score, crps(mean, std, target), rtol=1e-12)
    assert torch.allclose(
        found, quantiles(mean, std, torch.tensor([0.2, 0.7], dtype=torch.float64)), rtol=1e-9
    )


def test_distribution_functions_of_every_likelihood():
    rng = np.random.default_rng(1)
    y = torch.from_numpy(rng.normal(size=(3, 5, 2)))
    t = torch.from_numpy(rng.normal(size=(5, 2)))
    counts = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1], [9, 5]])
    wide = torch.cat([y, torch.zeros_like(y)], -1)
    std = 1e-6 + np.log(2)
    rate = y.exp().numpy()
    k = counts.numpy()
    for likelihood, outputs, target, expected in (
        (Gaussian(0.7), y, t, [stats.norm(y, 0.7).cdf(t)] * 2),
        (PredictedGaussian(), wide, t, [stats.norm(y, std).cdf(t)] * 2),
        (StudentT(3.0, 0.5), y, t, [stats.t(3, y, 0.5).cdf(t)] * 2),
        (Poisson(), y, counts, [stats.poisson(rate).cdf(k - 1), stats.poisson(rate).cdf(k)]),
        (Samples(), y, t, [(y < t).double().numpy()] * 2),
    ):
        got = distribution_function(likelihood, outputs, target)
        for mine, true in zip(got, expected, strict=True):
            assert mine.numpy() == pytest.approx(true, abs=1e-12), likelihood


# Faults -------------------------------------------------------------------------------------------


REFUSED = [
    (["classes", "--data", "{}/colours"], 1, "(3, 32, 32), but the run was trained on (1, 8, 8)"),
    (["classes", "--data", "{}/entsoe"], 1, "shape (96,), but the run was trained on (1, 8, 8)"),
    (["classes", "--split", "tset"], 1, "no split 'tset', only test, train, valid"),
    (["series", "--quantiles", "0.5,1.5"], 2, "1.5 is not between 0 and 1"),
    (["classes", "--quantiles", "0.1,0.9"], 2, "quantiles at 0.1, 0.9: the targets are classes"),
    (["series", "--decimal", ","], 2, "--decimal describes a csv file, but none was given"),
    (["series", "--quantiles", "a"], 2, "must be numbers separated by commas"),
    (["members", "--samples", "7"], 2, "7"),
    (["digits"], 2, "is not a run folder"),
    (["classes", "--out", "{}/there.h5"], 2, "already exists; --overwrite"),
    (["classes", "--out", "{}/no/such/p.h5"], 2, "there is no folder"),
    (["classes", "--out", "{}/digits"], 2, "is a folder"),
    (["classes", "--checkpoint", "none.pt"], 1, "no checkpoint none.pt"),
]


def test_bad_input_is_one_line(runs, hpcsamp, refusals, tmp_path):
    (runs / "there.h5").write_text("of somebody else")
    lines = []
    for arguments, _, _ in REFUSED:
        run, *rest = (a.format(runs) for a in arguments)
        out = [] if "--out" in rest else ["--out", tmp_path / "p.h5"]
        lines.append(["predict", runs / run, *rest, *out])
    found = refusals(2, *lines, timeout=120)
    found.append(hpcsamp(2, *lines[0], timeout=120))  # in a process of its own
    for done, (_, code, words) in zip(found, [*REFUSED, REFUSED[0]], strict=True):
        assert done.code == code, done.err
        assert len(done.errors) == 1, done.err
        assert words in done.errors[0]
    assert not list(tmp_path.iterdir())
    assert (runs / "there.h5").read_text() == "of somebody else"


def test_another_type_or_another_task_is_refused():
    from hpcsamp.data.manifest import ArraySpec, Manifest, Stats
    from hpcsamp.prediction.schema import as_trained
    from hpcsamp.run.trained import Trained

    def manifest(uid, classes=10, kind="u1", mean=0.0):
        one = Stats(mean=[mean], std=[1.0], min=[0.0], max=[1.0], count=1)
        return Manifest(
            schema_version=1, uid=uid, name=uid, task="classification", classes=classes,
            arrays={"x": ArraySpec.plan((1, 8, 8), kind), "y": ArraySpec.plan((), "<i8")},
            splits={}, shards=[], stats={"x": one},
        )  # fmt: skip

    class Set:
        def __init__(self, told):
            self.manifest, self.path = told, Path("other")
            self.order, self.notes = {}, []

    trained = Trained.of("ours", manifest("ours", mean=3.0))
    with pytest.raises(
        DataError, match="other: x has dtype float32, but the run was trained on uint8"
    ):
        as_trained(Set(manifest("b", kind="<f4")), trained)
    with pytest.raises(DataError, match=r"of 7 classes, .* classification of 10 classes"):
        as_trained(Set(manifest("b", classes=7)), trained)
    # standardised by what the network was trained on, not by what the other set says
    assert as_trained(Set(manifest("b")), trained).manifest.stats["x"].mean == [3.0]
    strange = as_trained(Set(manifest("b", classes=7)), trained, inputs_only=True)
    assert strange.manifest.stats["x"].mean == [3.0]


def test_a_full_disk_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    from hpcsamp.grid import init
    from hpcsamp.prediction.writer import ParallelFile
    from hpcsamp.tasks.layout import FileLayout, FileVariable

    rows = np.arange(4)
    layout = FileLayout(
        {"index": FileVariable(("index",), "<i8", values=rows)},
        {"mean": FileVariable(("index",), "<f8")},
    )
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 31})())
    with pytest.raises(
        UsageError, match=r"p.h5 needs 3.2e-08 GB, but its disk has 3.1e-08 GB free"
    ):
        ParallelFile(tmp_path / "p.h5", layout, init("world"))
    assert not list(tmp_path.iterdir())


def test_a_killed_rank_leaves_no_file(runs, tmp_path):
    """Rank 1 dies after some batches were written."""
    code = f"""
import os, signal, sys
from hpcsamp.prediction.writer import ParallelFile
from mpi4py import MPI
whole, calls = ParallelFile.write, []
def write(self, *args, **kwargs):
    calls.append(1)
    if len(calls) > 8 and MPI.COMM_WORLD.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, *args, **kwargs)
ParallelFile.write = write
sys.argv = ["hpcsamp", "predict", {str(runs / "series")!r}, "--out", {str(tmp_path / "p.h5")!r}]
from hpcsamp.cli import main
main()
"""
    process = subprocess.Popen(
        ["mpirun", "-n", "2", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
    )
    try:
        process.communicate(timeout=patient(100))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail("the job hangs after one of its ranks has died")
    assert process.returncode != 0
    deadline = time.monotonic() + patient(5)
    while (tmp_path / "p.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not (tmp_path / "p.h5").exists()
    assert (tmp_path / ".p.h5.part").exists()  # it had begun
