"""Runs on model ranks: what evaluations read, and networks that cannot be split."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from data_sets import make
from test_data_loader import requested

import hpcsamp as hs
from hpcsamp import collectives, config
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.layers import ModelAxis, along
from hpcsamp.models.given import offered
from hpcsamp.prediction.evaluator import Evaluator
from hpcsamp.run.assemble import Run
from hpcsamp.weights.pieces import parts_in

SHAPE = (64, 4, 10)
COUNT = 28 * 8
RUN = """
task = "regression"
[data]
path = "{data}"
batch = 28
[model]
name = "mixer"
strip = 5
width = 8
blocks = 1
[method]
name = "mean_field"
samples = 4
[loss]
name = "expected_nll"
[evaluation]
batch = 28
"""


@pytest.fixture
def scratch(comm):
    """A folder that all ranks share, with a set of 224 items and a configuration."""
    path = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    if comm.rank == 0:
        make(path / "set", shape=SHAPE, count=COUNT, classes=None, slabs="32x4x10",
             shard_bytes=2**20)  # fmt: skip
        (path / "run.toml").write_text(RUN.format(data=path / "set"))
    comm.Barrier()
    yield path
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(path, ignore_errors=True)


def assembled(scratch, topology, *settings):
    dataset = Dataset.open(scratch / "set", "train")
    return Run.of(config.load(scratch / "run.toml", list(settings)), dataset, topology), dataset


@pytest.mark.mpi(ranks=[2, 4], timeout=60, unit="s")
def test_evaluations_read_parts_of_inputs_every_byte_once(mpi_ranks, comm, scratch):
    topology = init("world", model=2, device="cpu")
    run, dataset = assembled(scratch, topology)
    group = collectives.choose(topology, "mpi")
    evaluator = Evaluator(run, dataset, topology, group, run.likelihood, samples=4)
    try:
        for batch in evaluator.loader.epoch(0):
            assert batch.x.shape == (28, 32, *SHAPE[1:])  # half of the fields
            assert batch.y.shape == (28, 2, 40)
        comm.Barrier()
        before = requested()
        found = evaluator.run(run.method)
        read = comm.allgather(requested() - before)
    finally:
        evaluator.close()
    assert found.metrics["items"] == COUNT
    total = COUNT * (64 * 4 * 10 + 2 * 40) * 4
    assert 0.99 <= sum(read) / total < 1.03, read
    assert max(read) <= 1.05 * total / comm.size


def in_parts(in_shape, outputs):
    return hs.models.Mixer(in_shape, outputs, strip=5, width=8, blocks=1)


@pytest.mark.mpi(ranks=[2], timeout=60, unit="s")
def test_networks_take_their_part_of_weights_or_are_refused(mpi_ranks, comm, scratch):
    topology = init("world", model=2, device="cpu")
    run, dataset = assembled(scratch, topology)
    assert run.method.networks[0].log_std.shape == (40,)  # of its 80 outputs
    assert not run.data_loss.takes_parts  # targets of 2 x 40, outputs of 2 x 4 x 10
    for settings, words in {
        ("model={name='mlp'}",): "network.layers.1, a Linear, holds its weights whole",
        ("model={name='mlp'}", "likelihood.std=1.0"): "layers.1, a Linear, holds its weights whole",
    }.items():
        with pytest.raises(UsageError, match=words):
            assembled(scratch, topology, *settings)
    axis = ModelAxis.of(topology.axis("model"))
    with (
        along(axis),
        pytest.raises(UsageError, match=r"1 standard deviations, but Mixer, .* 80 outputs"),
    ):
        hs.LearnedNoise(in_parts(SHAPE, 80), 1.0)
    torch.manual_seed(1)
    whole = in_parts(SHAPE, 80)
    run = Run.of(run.config, dataset, topology, initial=whole.state_dict())
    own = dict(run.method.networks[0].network.named_parameters())
    for name, part in parts_in(run.method.networks[0].network).items():
        assert torch.equal(own[name], part.cut(whole.get_parameter(name))), name
    # built before it is passed: each rank would have all of it
    with offered(whole) as table, pytest.raises(UsageError, match="Mixer returns 320 outputs"):
        assembled(scratch, topology, f"model={{name='given', of='{table['of']}', "
                  f"layout='{table['layout']}'}}")  # fmt: skip
