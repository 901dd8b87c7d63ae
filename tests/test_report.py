"""Reports of synthetic run folders: what is drawn, what is left out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from typer import Typer
from typer.testing import CliRunner

from hpcsamp.cli.report import report
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.metrics import ClassificationMetrics, RegressionMetrics
from hpcsamp.report import build, read_run
from hpcsamp.report.curves import learning_curves, smooth
from hpcsamp.report.fans import chosen, forecast_fans
from hpcsamp.report.gallery import as_images, gallery, most_uncertain
from hpcsamp.report.maps import weather_maps
from hpcsamp.report.records import DoesNotApplyError, MissingMaterialError
from hpcsamp.report.reliability import reliability_diagram, wilson
from hpcsamp.report.rows import row_errors
from hpcsamp.report.selective import ood_histograms, risk_coverage_curve
from hpcsamp.streams import Purpose, numpy_generator

CLASSES, ITEMS, SAMPLES = 10, 359, 8


def lines(epochs=12, per_epoch=10, task="classification"):
    """The metrics of a run that learns."""
    rng = numpy_generator(1, Purpose.SYNTHETIC, 0)
    events = []
    for step in range(0, epochs * per_epoch, 2):
        t = step / (epochs * per_epoch)
        data = 2.3 * np.exp(-3 * t) + 0.1 + 0.05 * rng.random()
        penalty = 0.4 * min(1.0, 3 * t)
        events.append(
            {"event": "train", "step": step, "epoch": step // per_epoch, "loss": data + penalty,
             "data": data, "penalty": penalty, "lr": 1e-3, "seconds": 0.1}
        )  # fmt: skip
        if (step + 2) % per_epoch == 0:
            found = {"nll": 1.5 * np.exp(-3 * t) + 0.2}
            if task == "classification":
                found |= {"accuracy": 0.96 - 0.8 * np.exp(-4 * t), "brier": 0.1,
                          "ece": 0.04 + 0.1 * (1 - t), "mace": 0.09 + 0.1 * (1 - t)}  # fmt: skip
            else:
                found |= {"rmse": 1 - 0.7 * t, "mae": 0.8 - 0.6 * t, "coverage_90": 0.7 + 0.22 * t}
            events.append({"event": "valid", "step": step, "epoch": step // per_epoch, **found})
    return events


def write_run(path: Path, temperature=1.0, data="no/such/set", task="classification", exact=True):
    """A run folder without an evaluation."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text(
        f'seed = 1\ntask = "{task}"\n[data]\npath = "{data}"\nbatch = 64\n[model]\nname = "vit"\n'
        f'[method]\nname = "mean_field"\nsamples = 16\n'
        f'[loss]\nname = "expected_nll"\ntemperature = {temperature}\n'
        f"exact = {str(exact).lower()}\n"
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines(task=task)))
    (path / "summary.json").write_text(
        json.dumps(
            {"steps": 120, "samples": 16, "world_size": 4, "sample_group_size": 4,
             "data_group_size": 1, "method": "mean_field", "loss": "expected_nll", "metrics": {},
             "seconds_per_step": 0.123, "items_per_second": 520.0, "peak_rss_mb": 412.5,
             "parameters_sha256": "ab" * 32}
        )
    )  # fmt: skip
    return path


def write_evaluation(path: Path, drop=(), ood=None):
    """A made-up predictive distribution of classes, with metrics that belong to it."""
    rng = numpy_generator(1, Purpose.SYNTHETIC, 1)
    target = np.arange(ITEMS) % CLASSES
    logits = 2.0 * rng.standard_normal((ITEMS, CLASSES))
    logits[np.arange(ITEMS), target] += rng.uniform(0, 9, ITEMS)
    each = logits + rng.standard_normal((SAMPLES, ITEMS, CLASSES))
    p = torch.softmax(torch.as_tensor(each), -1)
    mean = p.mean(0)
    aleatoric = torch.special.entr(p).sum(-1).mean(0)
    total = torch.special.entr(mean).sum(-1)
    metrics = ClassificationMetrics(CLASSES)
    metrics.update(mean.log(), torch.as_tensor(target), aleatoric=aleatoric)
    place = path / "evaluation"
    place.mkdir()
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (target, mean.argmax(1).numpy()), 1)
    tables = {
        "risk": np.linspace(0, 0.1, 50).tolist(),
        "confusion": table.tolist(),
        "class_names": [str(c) for c in range(CLASSES)],
    }
    (place / "test.json").write_text(
        json.dumps(
            {"split": "test", "samples": SAMPLES, "metrics": metrics.compute() | {"aurc": 0.01},
             "reliability": metrics.reliability() | tables, "ood": ood or {}}
        )
    )  # fmt: skip
    arrays = {
        "index": np.arange(ITEMS),
        "target": target,
        "probabilities": mean.float().numpy(),
        "total": total.numpy(),
        "aleatoric": aleatoric.numpy(),
        "epistemic": (total - aleatoric).numpy(),
    }
    with h5py.File(place / "test.h5", "w") as f:
        for name, values in arrays.items():
            if name not in drop:
                f[name] = values
    return arrays


def pixels(file: Path):
    """A picture, ``(height, width, 3 or 4)``; fails if it is blank."""
    image = imread(file)
    assert image[..., :3].std() > 0.02
    return image


def run_cli(*arguments):
    app = Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A small dataset of images, as the dataset room writes it."""
    from hpcsamp.ingest.build import build as ingest
    from hpcsamp.ingest.digits import digits

    folder = tmp_path_factory.mktemp("sets") / "digits"
    ingest(digits(), folder)
    return folder


def test_a_whole_report(tmp_path, images):
    run = write_run(tmp_path / "run", temperature=0.1, data=str(images))
    write_evaluation(run)
    result = run_cli(run)
    assert result.exit_code == 0, result.output
    out = run / "report"
    html = (out / "index.html").read_text()
    for name in ("learning-curves.png", "reliability.png", "uncertain-items.png"):
        height, width = pixels(out / name).shape[:2]
        assert 600 < width < 2000
        assert 600 < height < 2000
        assert f'<img src="{name}"' in html
        assert name in result.output
    assert "temperature 0.1" in html
    assert "bin" in html
    assert "unweighted" in html
    assert "0.123" in html  # seconds per step
    assert "http" not in html  # nothing is fetched from elsewhere
    assert "left out" not in result.output.lower()


def test_without_evaluation_or_dataset_one_line_says_what_is_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    made = build([run], tmp_path / "out")
    assert [p.name for p in made.pictures] == ["learning-curves.png"]
    assert made.notes == [
        f"calibration: test has not been evaluated (hpcsamp evaluate {run} --split test)"
    ]
    assert made.notes[0] in made.page.read_text()
    write_evaluation(run)
    (tmp_path / "out" / "uncertain-items.png").write_bytes(b"of another time")
    made = build([run], tmp_path / "out")
    drawn = ["learning-curves.png", "reliability.png", "risk-coverage.png", "confusion.png"]
    assert [p.name for p in made.pictures] == drawn
    assert len(made.notes) == 1
    assert "the dataset no/such/set does not exist" in made.notes[0]
    assert not (tmp_path / "out" / "uncertain-items.png").exists()


def test_several_runs_share_a_page(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", temperature=0.5)
    write_evaluation(one)
    made = build([one, two], tmp_path / "out")
    pixels(tmp_path / "out" / "learning-curves.png")
    assert (tmp_path / "out" / "reliability-1.png") in made.pictures
    html = made.page.read_text()
    assert '<th scope="col">one</th><th scope="col">two</th>' in html
    assert "two: temperature 0.5" in html
    assert [n for n in made.notes if "of two" in n]
    refused = run_cli(one, two)
    assert isinstance(refused.exception, UsageError)
    assert "--out" in str(refused.exception)


def test_regression(tmp_path):
    run = write_run(tmp_path / "run", task="regression")
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(200, generator=rng)
    target = mean + torch.randn(200, generator=rng)
    metrics = RegressionMetrics()
    metrics.update(mean, torch.full((200,), 0.5), target)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "test.json").write_text(
        json.dumps(
            {
                "split": "test",
                "samples": 8,
                "metrics": metrics.compute(),
                "reliability": metrics.reliability(),
            }
        )
    )
    with h5py.File(run / "evaluation" / "test.h5", "w") as f:
        f["index"], f["target"], f["mean"] = np.arange(200), target.numpy(), mean.numpy()
    made = build([run], tmp_path / "out")
    drawn = ["learning-curves.png", "coverage.png", "spread.png"]
    assert [p.name for p in made.pictures] == drawn
    for name in drawn:
        pixels(tmp_path / "out" / name)
    assert made.notes == []
    assert "Stated and observed coverage" not in made.page.read_text()
    written = json.loads((run / "evaluation" / "test.json").read_text())
    written["recalibration"] = {
        "used": "yes", "split": "valid", "score": "cqr", "items": 98, "coverage": 0.9,
    }  # fmt: skip
    written["metrics"] |= {"conformal_coverage": 0.885, "conformal_width": 3.25}
    written["units"] = {"conformal_width": "MW"}
    (run / "evaluation" / "test.json").write_text(json.dumps(written))
    page = build([run], tmp_path / "out").page.read_text()
    for words in (
        "Stated and observed coverage",
        "(cqr) state a coverage of 0.900, from 98 calibration items of valid",
        "Observed on test: 0.885",
        "varies by about 0.03 (one standard deviation). The mean width of an interval is 3.25 MW.",
    ):
        assert words in page
    (run / "evaluation" / "test.json").write_text(
        json.dumps({"split": "test", "samples": 8, "metrics": {}, "reliability": None})
    )
    made = build([run], tmp_path / "out")
    assert made.notes[0].startswith("coverage: evaluation/test.json contains no reliability bins")
    assert made.notes[1].startswith("spread: evaluation/test.json contains no reliability bins")


def test_the_last_line_of_a_step_counts(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"event": "train", "step": 4, "epoch": 0, "loss": 77.0}\n')
        f.write('{"event": "train", "step": 6, "epoch": 0, "loss": null}\n')
        f.write('{"event": "train", "step": 200, "ep')  # killed while writing
    steps, loss = read_run(run).series("train", "loss")
    assert steps.tolist() == list(range(0, 120, 2))
    assert loss[2] == 77
    assert np.isnan(loss[3])
    assert np.isfinite(loss[4:]).all()
    epochs, accuracy = read_run(run).series("valid", "accuracy", axis="epoch")
    assert epochs.tolist() == list(range(1, 13))
    assert accuracy.shape == (12,)


def test_long_runs_are_smoothed_and_wide_ranges_logarithmic(tmp_path):
    run = write_run(tmp_path / "run")
    events = [
        {"event": "train", "step": s, "epoch": 0, "loss": 100 * 0.95**s + 0.5} for s in range(300)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    axes = learning_curves([read_run(run)]).axes
    assert len(axes) == 1  # no validation yet
    assert axes[0].get_yscale() == "log"
    assert len(axes[0].lines) == 2  # single values and their running mean
    assert smooth(np.array([0.0, 3, 6, 3]), 3).tolist() == [1.5, 3, 4, 4.5]


def test_titles_state_what_is_not_plain_bayes(tmp_path):
    plain, hot = write_run(tmp_path / "plain"), write_run(tmp_path / "hot", 0.25, exact=False)
    assert read_run(plain).caveats == []
    title = read_run(hot).title
    assert title.startswith("hot: vit on set, trained with S = 16, temperature 0.25")
    assert "exact = false" in title
    arrays = write_evaluation(hot)
    assert arrays["total"].shape == (ITEMS,)
    run = read_run(hot)
    figures = [learning_curves([run]), reliability_diagram(run, run.evaluation("test"))]
    for figure in figures:
        assert "temperature 0.25" in figure.get_suptitle().replace("\n", " ")
    assert "MACE" in figures[1].get_suptitle()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: run.rename(run.with_name("gone")), "no run folder"),
        (lambda run: (run / "config.toml").unlink(), "it has no config.toml"),
        (lambda run: (run / "metrics.jsonl").unlink(), "nothing to report yet"),
        (lambda run: (run / "metrics.jsonl").write_text("{}}\n{}\n"), "metrics.jsonl, line 1"),
        (lambda run: (run / "config.toml").write_text("a = = 1"), "config.toml is not valid TOML"),
        (
            lambda run: (run / "summary.json").write_text("{"),
            "summary.json is damaged",
        ),
        (lambda run: (run / "summary.json").write_text("[]"), "it does not hold a JSON object"),
        (
            lambda run: (run / "evaluation" / "test.json").write_text('{"split": "test"}'),
            "test.json lacks 'samples'",
        ),
        (lambda run: (run / "report").write_text("a file"), "cannot write the report"),
    ],
)
def test_a_damaged_run_folder_is_refused_in_one_line(tmp_path, damage, message):
    run = write_run(tmp_path / "run")
    write_evaluation(run)
    damage(run)
    refused = run_cli(run).exception
    assert isinstance(refused, HpcsampError)
    assert message in str(refused)
    assert "\n" not in str(refused)


@pytest.mark.parametrize("shape", [(1, 8, 6), (8, 6), (8, 6, 1)])
def test_grey_images(shape):
    x = np.arange(96, dtype=np.uint8).reshape(2, *shape)
    assert np.allclose(as_images(x), np.arange(96).reshape(2, 8, 6) / 95)


def test_colour_images_and_what_is_no_image():
    x = np.arange(288).reshape(2, 3, 8, 6)
    assert np.allclose(as_images(x), np.moveaxis(x, 1, -1) / 287)
    assert as_images(x.reshape(2, 8, 6, 3)).shape == (2, 8, 6, 3)
    assert as_images(np.ones((2, 4, 4))).max() == 0
    for shape, kind in [((5,), DoesNotApplyError), ((7, 8, 6), MissingMaterialError)]:
        with pytest.raises(kind, match="not images"):
            as_images(np.zeros((2, *shape)))


def test_the_gallery_is_of_the_most_uncertain(tmp_path, images):
    assert most_uncertain(np.array([0.1, 0.9, 0.5, 0.9]), 3).tolist() == [1, 3, 2]
    run = read_run(write_run(tmp_path / "run", data=str(images)))
    arrays = write_evaluation(run.path)
    figure = gallery(run, run.evaluation("test"), items=3)
    top = np.argsort(-arrays["total"])[:3]
    said = arrays["probabilities"][top].argmax(1)
    titles = [t for a in figure.axes if (t := a.get_title())]
    for title, i, predicted in zip(titles, top, said, strict=True):
        true = arrays["target"][i]
        mark = "✓" if predicted == true else "✗"
        assert title == f"{true} → {predicted}  {mark}"
    labels = [label for a in figure.axes if (label := a.get_xlabel())]
    assert labels[0] == f"{arrays['total'][top[0]]:.2f} ({arrays['epistemic'][top[0]]:.2f})"


def test_a_gallery_without_its_numbers_says_so(tmp_path, images):
    run = read_run(write_run(tmp_path / "run", data=str(images)))
    write_evaluation(run.path, drop=("epistemic",))
    with pytest.raises(MissingMaterialError, match=r"test\.h5 lacks epistemic"):
        gallery(run, run.evaluation("test"))
    (run.path / "evaluation" / "test.h5").unlink()
    with pytest.raises(MissingMaterialError, match=r"no evaluation/test\.h5"):
        gallery(run, run.evaluation("test"))


def test_wilson_interval():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 10.0, 10.0]))
    # scipy.stats.binomtest(k, 10).proportion_ci(method="wilson")
    assert low == pytest.approx([0, 0.23659, 0.72246], abs=1e-4)
    assert high == pytest.approx([0.27754, 0.76341, 1], abs=1e-4)


def write_values(path: Path, names, shape, units=("K", "Pa"), **scales):
    """Predictions of fields or series, as an evaluation writes them, and their errors by row."""
    rng = numpy_generator(1, Purpose.SYNTHETIC, 2)
    items = 12
    target = rng.standard_normal((items, *shape))
    mean = target + 0.3 * rng.standard_normal(target.shape)
    place = path / "evaluation"
    place.mkdir(exist_ok=True)
    rows = {
        "name": names[0], "axis_units": "min", "labels": list(scales[names[0]]),
        "units": [units[k % len(units)] for k in range(shape[0])],
        "rmse": [0.3] * shape[0], "mae": [0.2] * shape[0], "spread": [0.3] * shape[0],
        "spread_skill": [1.0] * shape[0], "crps": [0.1] * shape[0],
    }  # fmt: skip
    (place / "test.json").write_text(
        json.dumps({"split": "test", "samples": 8, "metrics": {"rmse": 0.3},
                    "units": {"rmse": "MW"}, "reliability": None, "rows": rows})
    )  # fmt: skip
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    with h5py.File(place / "test.h5", "w") as f:
        f["index"], f["quantile"] = np.arange(items), levels
        f["total"] = np.arange(items)[::-1] / items
        f["target"], f["mean"], f["std"] = target, mean, np.full_like(mean, 0.3)
        if len(shape) == 1:
            f["quantiles"] = mean[:, None] + np.array([-2, -1, 0, 1, 2])[:, None] / 5
        for i, name in enumerate(names):
            f[name] = scales[name]
            f[name].make_scale(name)
            for array in ("target", "mean", "std"):
                f[array].dims[i + 1].attach_scale(f[name])
        f["target"].attrs["units"] = "MW"
        f[names[0]].attrs["units"] = "min"
    return target, mean


def test_fans_show_items_of_low_median_and_high_uncertainty(tmp_path):
    run = write_run(tmp_path / "run", task="regression")
    target, _ = write_values(run, ["horizon"], (6,), ("MW",), horizon=15.0 * np.arange(1, 7))
    rows, said = chosen(np.arange(12)[::-1] / 12)
    assert said == ["low", "low", "median", "median", "high", "high"]
    assert rows.tolist() == [11, 10, 6, 5, 2, 1]
    made = build([run], tmp_path / "out")
    assert {"forecasts.png", "rows.png"} <= {p.name for p in made.pictures}
    pixels(tmp_path / "out" / "forecasts.png")
    pixels(tmp_path / "out" / "rows.png")
    assert "(MW)" in made.page.read_text()
    read = read_run(run)
    axes = forecast_fans(read, read.evaluation("test")).axes
    assert "low uncertainty, item 11" in [a.get_title() for a in axes]
    for a in axes:  # no text lies over the curves
        assert all(text.get_position()[1] > 1 for text in a.texts)
    truth = axes[0].lines[-1].get_ydata()
    assert np.allclose(truth, target[11])
    assert axes[0].get_ylabel() == "MW"
    assert axes[-1].get_xlabel() == "horizon / min"


def test_maps_of_the_item_of_median_uncertainty(tmp_path):
    run = write_run(tmp_path / "run", task="regression")
    names = ["2m_temperature", "pressure"]
    target, mean = write_values(
        run, ["variable", "latitude", "longitude"], (2, 5, 8), variable=names,
        latitude=np.linspace(-80, 80, 5), longitude=np.arange(8) * 45.0,
    )  # fmt: skip
    made = build([run], tmp_path / "out")
    assert {"maps.png", "rows.png"} <= {p.name for p in made.pictures}
    pixels(tmp_path / "out" / "maps.png")
    read = read_run(run)
    figure = weather_maps(read, read.evaluation("test"))
    drawn = [a.collections[0] for a in figure.axes if a.get_label() != "<colorbar>"]
    error = drawn[2]  # mean, truth, error, spread
    assert np.allclose(error.get_array(), (mean - target)[6, 0])
    low, high = error.get_clim()
    assert low == -high  # centred
    assert drawn[0].get_clim() == drawn[1].get_clim()
    ticks = [
        t.get_text() for t in row_errors(read, read.evaluation("test")).axes[0].get_yticklabels()
    ]
    assert ticks == ["2m_temperature\u20020.3 K", "pressure\u20020.3 Pa"]


def test_strange_items_and_selective_risk(tmp_path):
    run = write_run(tmp_path / "run")
    edges = np.linspace(0, 1, 5).tolist()
    found = {"edges": edges, "inside": [5, 3, 1, 1], "outside": [0, 1, 4, 5]}
    ood = {"dataset": "sets/other", "split": "test", "items": 10, "scores": {"total": found}}
    write_evaluation(run, ood=ood)
    read = read_run(run)
    axes = ood_histograms(read, read.evaluation("test")).axes[0]
    assert axes.patches[0].get_data().values.tolist() == [0.8, 0.2]  # two bins as one
    assert axes.patches[2].get_data().values.tolist() == [0.1, 0.9]
    figure = risk_coverage_curve(read, read.evaluation("test"))
    assert "0.0100" in figure.get_suptitle()
    curve = figure.axes[0].lines[-1]
    assert curve.get_xdata()[-1] == 1
    assert curve.get_ydata()[-1] == pytest.approx(0.1)
    assert "ood.png" in {p.name for p in build([run], tmp_path / "out").pictures}
