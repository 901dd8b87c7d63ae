"""What a step needs of memory is known before it is taken."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hpcsamp import config as configuration
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.models import ViT
from hpcsamp.planning import memory
from hpcsamp.planning import node_memory as machine
from hpcsamp.planning.dry_run import LargestMemory, pass_bytes
from hpcsamp.run.assemble import Run
from hpcsamp.run.shapes import DataShapes
from hpcsamp.tasks import Targets


def run(*settings, **tables):
    table = {
        "task": "regression",
        "data": {"path": "d", "batch": 64},
        "model": {"name": "mlp", "hidden": [32]},
        "method": {"samples": 4},
        "likelihood": {"std": 1.0},
    }
    for name, values in tables.items():
        table[name] = {**table.get(name, {}), **values}
    return configuration.check(configuration.apply_overrides(table, settings))


def parts(config, grid=None, like="entsoe"):
    grid = grid or memory.Grid()
    run = Run.blank(config, DataShapes.of(synthetic(like, 100)), grid.sample_size)
    return {p.name: p for p in memory.estimate(run, grid)}


def test_live_storages_are_counted_once():
    with LargestMemory() as counted:
        a = torch.zeros(1000)
        b = a.view(10, 100).t()  # the same storage
        assert counted.live == 4000
        c = a + 1
        assert counted.live == counted.largest == 8000
        del a, b
        assert counted.live == 4000
        c = c.double()
        assert counted.live == 8000
        assert counted.largest == 12000  # both types at once
    del c


def test_the_state_of_a_method_s_own_optimiser_is_what_it_keeps():
    """Half of the weights are random, by a pattern; a step of the real optimiser is the truth."""
    for name, optimizer, more in (
        ("ivon", "Adam", {"bayesian": ["layers.1.*"]}),
        ("sgld", "SGHMC", {}),
        ("sgld", "SGLD", {}),
    ):
        config = run(
            f'optimizer.name="{optimizer}"',
            'loss.name="expected_nll"',
            method={"name": name, **more},
        )
        shapes = DataShapes.of(synthetic("entsoe", 100))
        made = Run(config, shapes, range(4), torch.device("cpu")).method
        made.begin(100, 100, 10)
        own = made.optimizers[optimizer](made.parameters(), lr=1e-3)
        for p in made.parameters():
            p.grad = torch.zeros_like(p)
        own.step()
        kept = [v for of in own.state.values() for v in of.values() if isinstance(v, torch.Tensor)]
        expected = 4 * sum(v.numel() for v in kept if v.dim())
        found = parts(config)
        assert found[f"state of {optimizer}"].bytes == expected
        assert (expected > 0) == (optimizer != "SGLD")


def test_a_pass_of_a_linear_layer_is_what_is_counted_by_hand():
    with torch.device("meta"):
        layer = nn.Linear(100, 50)
    batch, weights = 200, 100 * 50 + 50
    # outputs and their gradient; the gradients of weight and bias, then both as one vector; the
    # loss and its own gradient
    outputs, gradient, loss = 4 * batch * 50, 4 * weights, 4 + 4
    found = pass_bytes(layer, (100,), batch)
    assert found == 2 * outputs + 2 * gradient + loss
    assert pass_bytes(layer, (100,), batch, dtype=torch.float64) == 2 * found


@pytest.mark.parametrize("rough", [False, True])
def test_checkpointing_and_batches_show_in_a_pass(rough):
    def measured(batch, **arguments):
        with torch.device("meta"):
            model = ViT((3, 32, 32), 10, width=48, layers=6, hidden=96, **arguments)
        return pass_bytes(model, (3, 32, 32), batch, rough=rough)

    plain = measured(32)
    assert 1.8 < measured(64) / plain < 2
    assert measured(32, checkpoint=True) < plain / 2


def test_a_rough_pass_is_an_upper_bound():
    with torch.device("meta"):
        model = ViT((3, 32, 32), 10, width=48, layers=2, hidden=96)
    exact = pass_bytes(model, (3, 32, 32), 8)
    assert exact <= pass_bytes(model, (3, 32, 32), 8, rough=True) < 2 * exact
    assert pass_bytes(model, (3, 32, 32), 8, autocast=torch.bfloat16) < exact


def test_flat_parts_follow_from_the_number_of_parameters():
    found = parts(run())
    trained = 2 * (96 * 32 + 32 + 32 * 24 + 24)
    assert found["means and log standard deviations"].bytes == 4 * trained
    assert found["their gradient"].bytes == 4 * trained
    assert found["state of Adam"].bytes == 2 * 4 * trained
    assert found["drawn weights and their noise"].bytes == 4 * trained


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        (["optimizer.name=SGD"], 0),
        (["optimizer.name=SGD", "optimizer.momentum=0.9"], 1),
        (["optimizer.name=AdamW", "optimizer.amsgrad=true"], 3),
        (["optimizer.name=RMSprop"], 1),
    ],
)
def test_the_state_of_an_optimiser_is_looked_at(settings, numbers):
    found = parts(run(*settings))
    state = next(p for name, p in found.items() if name.startswith("state"))
    assert state.bytes == numbers * found["their gradient"].bytes


def test_each_knob_lowers_its_part():
    two = memory.Grid(2, 1, 2)
    vit = {"task": "classification", "model.name": "vit", "model.width": 48, "likelihood": {}}
    base = [f"{k}={v}" for k, v in vit.items()]

    def found(*settings):
        table = run(model={"hidden": 96, "name": "vit", "width": 48, "layers": 2})
        table = configuration.apply_overrides(
            table.model_dump(exclude_none=True), [*base, *settings]
        )
        return parts(configuration.check(table), two, "cifar10")

    def of(parts, start):
        return next(p for name, p in parts.items() if name.startswith(start))

    for start, setting, knob in [
        ("state", "optimizer.sharded=true", "optimizer.sharded = true"),
        ("a forward and backward pass", "model.checkpoint=true", "model.checkpoint = true"),
    ]:
        before, after = found(), found(setting)
        assert of(before, start).knob == knob
        assert of(after, start).bytes < of(before, start).bytes, start
    kept = found("loss.name=predictive_nll")
    assert of(kept, "a forward").knob == 'loss.memory = "recompute"'
    recomputed = found("loss.name=predictive_nll", "loss.memory=recompute")
    assert of(recomputed, "a forward").bytes == of(kept, "a forward").bytes / 2
    half = found("model.checkpoint=true", "training.precision=bfloat16")
    assert of(found("model.checkpoint=true"), "a forward").knob == 'training.precision = "bfloat16"'
    assert of(half, "a forward").bytes < of(found("model.checkpoint=true"), "a forward").bytes
    views = found("augment.flip=true")
    assert of(views, "batch").knob == 'augment.share = "all"'
    assert (
        of(found("augment.flip=true", "augment.share=all"), "batch").bytes
        < of(views, "batch").bytes
    )


def test_noise_that_is_learnt_is_counted():
    fixed, learnt = run(), run("likelihood={}")
    trained = [
        parts(config)["means and log standard deviations"].bytes for config in (fixed, learnt)
    ]
    assert trained[1] - trained[0] == 24 * 4  # one for each quarter of an hour


def test_the_estimate_is_near_what_a_run_takes(hpcsamp, tmp_path):
    """A run whose flat parts and activations are each some hundred MB."""
    (tmp_path / "run.toml").write_text("""
task = "regression"
data = { path = "data", batch = 2048, synthetic = { like = "entsoe", items = 6000 } }
model = { name = "mlp", hidden = [2000, 2000, 2000], dropout = 0.0 }
method = { samples = 2 }
training = { epochs = 1, steps = 2 }
""")
    done = hpcsamp(
        2, "train", "run.toml", "--data", "synthetic", "-o", "run", cwd=tmp_path, timeout=120
    )
    assert done.code == 0, done.err
    peak = json.loads((tmp_path / "run/summary.json").read_text())["peak_rss_mb"] * 2**20
    config = configuration.load(tmp_path / "run.toml")
    found = parts(config, memory.Grid(2, 1, 2))
    total = sum(p.bytes for p in found.values())
    flat = found["means and log standard deviations"].bytes
    assert flat > 60e6
    assert found["a forward and backward pass"].bytes > 60e6
    assert 0.8 < peak / total < 1.25


def test_a_run_without_memory_for_it_is_refused_before_the_first_step(hpcsamp, tmp_path):
    (tmp_path / "huge.toml").write_text("""
task = "regression"
data = { path = "data", batch = 8, synthetic = { like = "entsoe", items = 100 } }
model = { name = "mlp", hidden = [100, 100] }
method = { samples = 20000 }
loss = { memory = "keep" }
augment = { }
training = { epochs = 1 }
evaluation = { samples = 2 }
""")
    # 20,000 samples kept at once: 10 GB of draws and noise for each 32,000 weights
    settings = ["--set=data.batch=80", "--set=model.hidden=[1000, 1000]"]
    done = hpcsamp(
        2, "train", "huge.toml", "--data=synthetic", "-o", "run", *settings, cwd=tmp_path
    )
    assert done.code == 2, done.err
    assert len(done.errors) == 1
    for word in (
        "GB",
        "2 ranks",
        "no setting saves memory",
        'by loss.memory = "stream"',
        "memory_check",
    ):
        assert word in done.errors[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_cached_files_of_a_control_group_give_way(tmp_path):
    (tmp_path / "memory.stat").write_text("anon 5\nactive_file 30\ninactive_file 400\nshmem 7\n")
    assert machine._cached(tmp_path) == 430
    assert 0 < machine.available() < 2**62


def test_settings_that_save_memory_are_named():
    def saving(*settings, **tables):
        made = run(*settings, **tables)
        return memory.saving(
            Run.blank(made, DataShapes((3, 32, 32), (4,), 3072, Targets("regression", (4,))))
        )

    assert saving() == 'memory is saved by loss.memory = "stream"'
    assert saving("loss.memory=keep") == "no setting saves memory"
    lean = ["training.precision=bfloat16", "optimizer.sharded=true", "loss.memory=recompute"]
    told = saving(*lean, "model.checkpoint=true", model={"hidden": 96, "name": "vit"})
    for setting in lean:
        assert setting.split("=")[0] in told
    assert "model.checkpoint = true" in told


def test_the_command_tells_both_counts_and_all_parts(hpcsamp, tmp_path):
    listed = hpcsamp(1, "models")
    assert listed.code == 0
    for word in ("mlp", "vit", "swin", "window", "swin-era5"):
        assert word in listed.out
    settings = ["--set=data.batch=1", "--set=method.samples=2", "--ranks=2"]
    done = hpcsamp(1, "models", "swin-era5", *settings, "--json", tmp_path / "m.json")
    assert done.code == 0, done.err
    assert "103,543,449" in done.out
    assert "207,038,298" in done.out
    for knob in ("model.checkpoint = true", "optimizer.sharded = true"):
        assert knob in done.out
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["bytes_per_node"] == 2 * told["bytes_per_rank"]
    assert told["bytes_per_rank"] == sum(p["bytes"] for p in told["parts"])
    lean = [*settings, "--set=model.checkpoint=true", "--set=optimizer.sharded=true"]
    done = hpcsamp(1, "models", "swin-era5", *lean, "--json", tmp_path / "l.json")
    assert done.code == 0, done.err
    lean = json.loads((tmp_path / "l.json").read_text())
    assert lean["bytes_per_node"] < 20e9 < told["bytes_per_node"]
