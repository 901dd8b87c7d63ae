"""The paper's figures: measures from records, curves from runs, and campaigns that make them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpcsamp.campaign.points import Campaign
from hpcsamp.errors import UsageError
from hpcsamp.report.figures import convergence, draw, figure_of, scaling, scaling_table, sources
from hpcsamp.report.records import MissingMaterialError

ROOT = Path(__file__).parent.parent
CAMPAIGNS = ROOT / "jobscripts" / "campaigns"


def _record(ranks, grid, samples, batch, seconds, **more):
    return {
        "event": "scaling", "model": "vit", "mode": None, "grid": grid, "world_size": ranks,
        "samples": samples, "batch": batch, "rounds": [seconds], "seconds_per_step": seconds,
        "spread": [seconds, 2 * seconds], "machine": {"cpu": "a processor"}, "command": str(ranks),
        **more,
    }  # fmt: skip


RECORDS = [
    _record(1, "alone", 16, 32, 8.0),
    _record(1, "alone", 2, 64, 3.0),
    _record(2, "sampling", 16, 32, 5.0),
    _record(4, "sampling", 16, 32, 2.5),
    _record(4, "data", 16, 128, 10.0),  # four times the items
    _record(4, "sampling", 8, 64, 4.0),
]


def test_records_tell_by_s_and_batch_what_was_kept():
    found = {(c.mode, c.grid): c for c in scaling.curves(RECORDS)}
    assert found.keys() == {
        ("fixed", "sampling"), ("fixed-growing-batch", "data"), ("proportional", "sampling"),
    }  # fmt: skip
    fixed = found["fixed", "sampling"]
    assert (fixed.ranks, fixed.values) == ((1, 2, 4), (1.0, 1.6, 3.2))
    assert fixed.low == (1.0, 0.8, 1.6)  # the slowest round
    assert found["fixed-growing-batch", "data"].values == (1.0, 4 * 8.0 / 10.0)
    assert found["proportional", "sampling"].values == (1.0, 0.75)


def test_records_that_took_turns_are_compared_round_by_round():
    turns = {"command": "one", "mode": "fixed"}
    records = [
        _record(1, "alone", 4, 8, 2.0, **turns) | {"rounds": [2.0, 4.0, 6.0]},
        _record(2, "sampling", 4, 8, 1.0, **turns) | {"rounds": [1.0, 4.0, 2.0]},
    ]
    (curve,) = scaling.curves(records)
    assert (curve.values[1], curve.low[1], curve.high[1]) == (2.0, 1.0, 3.0)


def test_without_one_rank_there_is_nothing_to_compare_with():
    with pytest.raises(MissingMaterialError, match="one rank"):
        scaling.curves(RECORDS[2:])


def test_records_of_two_workloads_are_not_mixed(tmp_path):
    records = [*RECORDS, _record(1, "alone", 16, 32, 1.0, model="mlp")]
    (tmp_path / "scaling.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(UsageError, match="vit, mlp"):
        draw("4", [tmp_path], tmp_path / "out")


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """Two strategies, two batches, two seeds; accuracies that can be told apart."""
    found = []
    for p, d in ((2, 1), (1, 2)):
        for batch in (32, 64):
            for seed in (1, 2):
                folder = tmp_path / "runs" / "points" / f"{p}-{batch}-{seed}"
                folder.mkdir(parents=True)
                (folder / "config.toml").write_text(
                    f'seed = {seed}\n[data]\npath = "d"\nbatch = {batch}\n'
                    f'[augment]\nshare = "{"rank" if seed == 1 else "all"}"\n[model]\nname = "m"\n'
                )
                lines = [
                    {"event": "valid", "step": 10 * (e + 1), "epoch": e, "nll": 1.0 / (e + 1),
                     "accuracy": (e + seed) / 10}
                    for e in range(3)
                ]  # fmt: skip
                (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
                summary = {
                    "world_size": 2, "sample_group_size": p, "data_group_size": d,
                    "seconds_per_step": 0.5, "metrics": {"mace": 0.1 * seed + 0.001 * batch},
                }  # fmt: skip
                (folder / "summary.json").write_text(json.dumps(summary))
                found.append(folder)
    return found


def test_time_is_that_of_the_steps(runs):
    run = sources.runs(runs[:1])[0]
    x, y = convergence.series(run, "accuracy", "time")
    np.testing.assert_allclose(x, [5.0, 10.0, 15.0])
    np.testing.assert_allclose(y, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(convergence.series(run, "accuracy", "epoch")[0], [1, 2, 3])


def test_curves_are_means_over_seeds(runs):
    fig = convergence.by_batch(sources.runs(runs), "accuracy", "epoch", "title")
    assert [axes.get_title() for axes in fig.axes] == ["global batch 32", "global batch 64"] or [
        axes.get_title(loc="left") for axes in fig.axes
    ] == ["global batch 32", "global batch 64"]
    for axes in fig.axes:
        assert [line.get_label() for line in axes.lines] == ["data, 2 ranks", "sampling, 2 ranks"]
        for line in axes.lines:
            np.testing.assert_allclose(line.get_ydata(), [0.15, 0.25, 0.35])


def test_batches_come_in_the_order_of_their_size(runs):
    for folder in runs[4:]:  # 128 comes before 64, as text
        config = folder / "config.toml"
        config.write_text(config.read_text().replace("batch = 32", "batch = 128"))
    fig = convergence.by_strategy(sources.runs(runs[4:]), "nll", "epoch", "title")
    labels = [line.get_label() for line in fig.axes[0].lines]
    assert labels == ["data, batch 64", "data, batch 128"]


@pytest.mark.parametrize("figure", ["5", "6", "7", "8"])
def test_figures_of_a_campaign_are_drawn(runs, tmp_path, figure):
    (made,) = draw(figure, [tmp_path / "runs"], tmp_path / "out")
    assert made.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("figure", ["4", "9", "10", "mixer"])
def test_figures_of_records_are_drawn(tmp_path, figure):
    (tmp_path / "scaling.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    (made,) = draw(figure, [tmp_path], tmp_path / "out")
    assert made.read_bytes().startswith(b"\x89PNG")


def test_table1_is_of_means_by_strategy_and_batch(runs):
    found = scaling_table.calibration(sources.runs(runs))
    assert found.batches == (32, 64)
    assert found.rows.keys() == {"data parallelism", "sampling parallelism"}
    np.testing.assert_allclose(found.rows["sampling parallelism"], [0.182, 0.214])
    assert found.split == "the last validation"
    assert "| sampling parallelism | 0.1820 | 0.2140 |" in found.markdown()
    assert found.csv().splitlines()[0] == "method,32,64"


def test_report_draws_a_figure_or_says_why_not(hpcsamp, runs, tmp_path):
    done = hpcsamp(1, "report", tmp_path / "runs", "--figure=table1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "sampling parallelism" in done.out
    done = hpcsamp(1, "report", tmp_path / "runs", "--figure=4", "--out", tmp_path / "out")
    assert done.code == 2
    assert "no records of hpcsamp bench scaling" in done.err
    assert len(done.errors) == 1


def test_model_ranks_have_curves_of_their_own():
    records = [
        _record(1, "alone", 2, 4, 1.0),
        _record(2, "sampling", 4, 4, 1.25),
        _record(2, "model", 4, 4, 1.0) | {"model_group_size": 2},
        _record(4, "sampling", 8, 4, 2.0) | {"model_group_size": 2},
    ]
    found = {c.label: c.values for c in scaling.curves(records)}
    assert found == {
        "sampling": (1.0, 0.8),
        "sampling, M = 2": (1.0, 0.5),
        "model, M = 2": (1.0, 1.0),
    }
    fig = scaling.scaling(records, "mixer", published=True)
    labels = [text.get_text() for text in fig.axes[-1].get_legend().get_texts()]
    assert sum("Jigsaw" in label for label in labels) == 3
    assert "sampling, M = 2" in labels


NAMES = [*(f"figure{n}" for n in range(4, 11)), "table1", "figure-mixer"]


def test_a_campaign_says_which_figure_it_is_for():
    assert figure_of([CAMPAIGNS / "figure4.toml"]) == "4"
    assert figure_of([CAMPAIGNS / "small" / "table1.toml"]) == "table1"
    assert figure_of([CAMPAIGNS / "figure-mixer.toml"]) == "mixer"
    assert figure_of([CAMPAIGNS / "example.toml"]) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", [CAMPAIGNS, CAMPAIGNS / "small"], ids=["full", "small"])
def test_campaigns_have_the_points_of_their_figure(folder, name):
    campaign = Campaign(folder / f"{name}.toml")
    points = campaign.points
    assert campaign.spec.name.endswith("-small") == (folder.name == "small")
    if name in ("figure4", "figure9", "figure10", "figure-mixer"):  # compared with one rank
        records = [
            _record(
                p.shape.ranks,
                sources.strategy(*_grid(p)).replace(
                    "one rank", "alone" if p.shape.ranks == 1 else "model"
                ),
                p.settings["method.samples"],
                p.settings.get("data.batch", 1),
                1.0,
            )
            | {"model_group_size": p.settings.get("parallel.model", 1)}
            for p in points
        ]
        drawn = scaling.curves(records)
        beyond_one = sum(len(c.ranks) - 1 for c in drawn)
        assert beyond_one >= sum(p.shape.ranks > 1 for p in points)  # none is left over
        modes = {c.mode for c in drawn}
        assert modes == (
            {"proportional"}
            if name == "figure10"
            else {"fixed", "proportional"}
            if name == "figure-mixer"
            else {"fixed", "fixed-growing-batch", "proportional"}
        )
    elif name != "figure6":
        strategies = {sources.strategy(*_grid(p)) for p in points}
        assert {"sampling", "data"} <= strategies


def _grid(point) -> tuple[int, int]:
    ranks = point.shape.ranks // point.settings.get("parallel.model", 1)
    own = point.settings.get("parallel.samples", "world")
    p = {"world": ranks, "none": 1, "node": point.shape.ranks_per_node}.get(own, own)
    return p, ranks // p


@pytest.mark.parametrize(("name", "other"), [("figure7", "figure5"), ("table1", "figure8")])
@pytest.mark.parametrize("folder", [CAMPAIGNS, CAMPAIGNS / "small"], ids=["full", "small"])
def test_figures_of_the_same_runs_share_them(folder, name, other):
    one, two = Campaign(folder / f"{name}.toml"), Campaign(folder / f"{other}.toml")
    assert one.folder == two.folder
    assert [p.name for p in one.points] == [p.name for p in two.points]
