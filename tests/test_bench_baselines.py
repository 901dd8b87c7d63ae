"""Baselines do the work that they say: same batches, same steps as their serial twins."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress

import pytest
import torch
from conftest import launch

from hpcsamp.bench import baselines, variants
from hpcsamp.bench.baselines.network import Training

CONFIG = """
seed = 3
[data]
path = "{digits}"
batch = 32
[model]
name = "mlp"
hidden = [16]
[method]
name = "{method}"
samples = 4
{more}
[loss]
name = "expected_nll"
[optimizer]
name = "SGD"
lr = 0.1
"""


@pytest.fixture
def config(digits, tmp_path):
    def write(method: str, more: str = "") -> str:
        path = tmp_path / f"{method}.toml"
        path.write_text(CONFIG.format(digits=digits, method=method, more=more))
        return str(path)

    return write


FEED = """
import sys, torch
from hpcsamp import config as configuration
from hpcsamp.bench.baselines import feed
from hpcsamp.data import Dataset, Loader
from hpcsamp.grid import init
topology = init("none", device="cpu")
config = configuration.load(sys.argv[1])
theirs = feed.batches(config, topology.device, topology.rank, topology.size)
with Loader(Dataset.open(config.data.path, "train"), topology, batch=32, seed=3) as loader:
    for number, batch in zip(range(3), loader.epoch(0)):
        x, y = next(theirs)
        torch.testing.assert_close(x, batch.x)
        assert torch.equal(y, batch.y)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_baselines_see_the_batches_that_hpcsamp_sees(config, tmp_path, ranks):
    code = tmp_path / "feed.py"
    code.write_text(FEED)
    done = launch(ranks, "-m", "mpi4py", code, config("mean_field"), timeout=90)
    assert done.code == 0, done.err


SAME = """
import pathlib, sys, torch
from hpcsamp import config as configuration
from hpcsamp.bench.baselines import BASELINES
from hpcsamp.grid import init
topology = init("world", device="cpu")
config = configuration.load(sys.argv[1])
serial = BASELINES["plain"](config, topology)
other = BASELINES[sys.argv[2]](config, topology)
before = [p.clone() for p in serial.network.parameters()]
for _ in range(3):
    serial.step()
    other.step()
for old, p, q in zip(before, serial.network.parameters(), other.network.parameters()):
    torch.testing.assert_close(p, q)
    assert not torch.equal(old, p)
other.close()
threads = [name.read_text() for name in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
"""


@pytest.mark.parametrize("name", ["ddp_data", "ddp_sampling"])
def test_without_randomness_ddp_is_the_serial_step(config, tmp_path, name):
    code = tmp_path / "same.py"
    code.write_text(SAME)
    path = config("mc_dropout", "rate = 0.0")
    done = launch(2, "-m", "mpi4py", code, path, name, timeout=90)
    assert done.code == 0, done.err


BLUE = """
import sys, torch
from hpcsamp import config as configuration
from hpcsamp.bench.baselines import BASELINES
from hpcsamp.grid import init
topology = init("world", device="cpu")
config = configuration.load(sys.argv[1])
for name in sys.argv[2:]:
    training = BASELINES[name](config, topology)
    before = [p.clone() for p in training.network.parameters()]
    training.step()
    for p, old in zip(training.network.parameters(), before):
        assert p.isfinite().all()
        assert not torch.equal(p, old), name  # every mean and every deviation has moved
    if topology.size > 1:
        mine = torch.cat([p.detach().flatten() for p in training.network.parameters()]).numpy()
        assert (topology.world.bcast(mine) == mine).all()  # replicas stay replicas
    training.close()
"""


@pytest.mark.parametrize(
    ("ranks", "names"),
    [
        (1, ["torch_blue", "torch_blue_math", "torch_blue_analytic", "torch_blue_loop"]),
        (2, ["ddp_sampling"]),
        (2, ["ddp_sampling_math"]),
    ],
)
def test_torch_blue_trains_all_its_parameters(config, tmp_path, ranks, names):
    code = tmp_path / "blue.py"
    code.write_text(BLUE)
    done = launch(ranks, "-m", "mpi4py", code, config("mean_field"), *names, timeout=90)
    assert done.code == 0, done.err


def test_bench_baselines_prints_ratios(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "baselines", "--workload=mlp-entsoe", "--against=plain,ddp_sampling",
        "--rounds=2", "--steps=2", "--samples=4", "--batch=8", "--no-bfloat16",
        "--set", "data.synthetic.items=600", "--out", tmp_path, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "speed-up of 2 ranks over 1" in done.out
    assert "over ddp_sampling, 2 ranks" in done.out
    found = [json.loads(line) for line in (tmp_path / "baselines.jsonl").read_text().splitlines()]
    assert [r["variant"] for r in found] == ["hpcsamp"] * 3 + ["plain", "ddp_sampling"]
    assert all(len(r["peak_rss_mb"]) == r["world_size"] for r in found)


@pytest.mark.parametrize("fault", [False, True])
def test_a_baseline_is_closed_unless_there_was_a_fault(fault, monkeypatch):
    """Closing waits for threads, and those perhaps for a rank that has failed."""
    closed = []
    training = Training(torch.nn.Linear(1, 1), lambda: None, lambda: closed.append(1))
    monkeypatch.setitem(baselines.BASELINES, "fake", lambda config, topology: training)
    monkeypatch.setattr(variants, "prepared", lambda variant: (None, None))
    variant = variants.Variant("fake", "fake", "c.toml", None, (), 2)
    with suppress(ValueError), ExitStack() as stack:
        variants.runner_of(variant, stack)
        if fault:
            raise ValueError
    assert closed == [1] * (not fault)


def test_bench_baselines_refuses_unknown_ones(hpcsamp):
    done = hpcsamp(1, "bench", "baselines", "--against=torchblue")
    assert done.code == 2
    assert "did you mean 'torch_blue'" in done.err
