"""Wrong input and faults on one rank: one line, the right exit code, on all ranks, no hang."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hpcsamp.config import load
from hpcsamp.errors import UsageError
from hpcsamp.run.folder import RunFolder

LIMIT = 40  # seconds from start to end: 20 for the job to end, 20 for ranks to start on a busy core


def refused(done, code, *words):
    assert done.code == code, (done.code, done.err)
    assert len(done.errors) == 1, done.err
    for word in words:
        assert word in done.errors[0], done.errors[0]
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("ranks", "settings", "words"),
    [
        (2, ["optimizer.lrr=1"], ["lrr", "Adam", "did you mean 'lr'"]),
        (2, ["trainng.epochs=1"], ["trainng", "did you mean 'training"]),
        (1, ["model.hiden=[3]"], ["hiden", "did you mean 'hidden'"]),
        (1, ["optimizer.name=Adm"], ["did you mean 'Adam'"]),
        (3, ["parallel.samples=none"], ["64", "3"]),
        (1, ["model.name=vit", "model.hidden=8", "model.patch=3"], ["patch = 3", "8 x 8"]),
        (1, ["task=regression"], ["regression", "classification"]),
        (1, ["data.path=nowhere"], ["nowhere"]),
    ],
)
def test_configurations_that_do_not_fit(hpcsamp, small, tmp_path, ranks, settings, words):
    sets = [f"--set={s}" for s in settings]
    done = hpcsamp(ranks, "train", small, "--output", tmp_path / "r", *sets, timeout=LIMIT)
    assert done.code in (1, 2)
    refused(done, 1 if "nowhere" in words else 2, *words)


def test_more_ranks_than_fit(refusals, small, tmp_path):
    train = ["train", small, "--output", tmp_path / "r"]
    few, uneven, alone = refusals(
        3,
        [*train, "--set=method.samples=2"],
        [*train, "--set=parallel.samples=2"],
        [*train, "--set=parallel.collectives=none"],
        timeout=LIMIT,
    )
    refused(few, 2, "S = 2", "P = 3")
    refused(uneven, 2, "2", "3")
    refused(alone, 2, '"none" works on one rank only', "there are 3")


def test_wrong_arguments_are_said_once(hpcsamp):
    refused(hpcsamp(2, "train", timeout=LIMIT), 2, "a configuration", "--data DIR")


def test_an_output_that_cannot_be_written(hpcsamp, small, tmp_path):
    (tmp_path / "file").touch()
    done = hpcsamp(2, "train", small, "--output", tmp_path / "file" / "run", timeout=LIMIT)
    refused(done, 2, "cannot write", "file/run")


@pytest.fixture(scope="module")
def trained(hpcsamp, small, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "trained"
    assert hpcsamp(1, "train", small, "--output", run).code == 0
    return run


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_put_aside(hpcsamp, commands, small, trained, tmp_path):
    """Resume goes on from the one before; what a file of the format without a seal is good for."""
    run, old = (shutil.copytree(trained, tmp_path / name) for name in ("run", "old"))
    last = max((run / "checkpoints").glob("step-*.pt"))
    flip(last, last.stat().st_size // 2)  # within the tensors: torch reads it without a word
    assert torch.load(last, weights_only=True)["version"] == 3
    for path in (old / "checkpoints").glob("*.pt"):
        torch.save({**torch.load(path, weights_only=True), "version": 1}, path)

    asked = ["train", small, "--output", run, "--resume"]
    done = commands(2, asked, ["evaluate", old], timeout=2 * LIMIT)
    assert done.code == 0, done.err
    assert done.err.count(f"{last} ") == 1
    assert "is damaged" in done.err
    assert last.with_name(last.name + ".damaged").is_file()
    ends = [torch.load(r / "checkpoints" / last.name)["method"] for r in (run, trained)]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-10, atol=1e-12)
    assert done.err.count("written before files were sealed") == 1
    assert json.loads((old / "evaluation/test.json").read_text())["metrics"]["accuracy"] > 0.5

    refused(
        hpcsamp(1, "train", small, "--output", old, "--resume", timeout=LIMIT),
        1, "format version 1", "evaluate", "another --output",
    )  # fmt: skip


def test_a_checkpoint_of_another_configuration(hpcsamp, small, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    done = hpcsamp(
        2, "train", small, "--output", run, "--resume", "--set=method.prior_std=0.7", timeout=LIMIT
    )
    refused(done, 1, "method.prior_std", "0.2", "0.7")


def test_a_flipped_bit_in_a_shard(hpcsamp, small, digits, tmp_path):
    data = shutil.copytree(digits, tmp_path / "digits")
    shard = data / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    done = hpcsamp(
        2, "train", small, "--output", tmp_path / "run", f"--set=data.path={data}", timeout=LIMIT
    )
    refused(done, 1, "shard-00000.h5")


def test_a_run_that_diverges_names_step_rank_and_sample(hpcsamp, small, tmp_path):
    done = hpcsamp(
        2,
        "train",
        small,
        "--output",
        tmp_path / "run",
        "--set=optimizer.lr=1e200",
        "--set=schedule.name=none",
        timeout=LIMIT,
    )
    refused(done, 1, "not finite at step", "rank", "sample")


FAULT = """
import sys
from mpi4py import MPI
import hpcsamp.{module} as module
original = module.{owner}.{name}
calls = 0
def faulty(self, *arguments, **options):
    global calls
    calls += 1
    if MPI.COMM_WORLD.rank == {rank} and calls > 5:
        raise {error}
    return original(self, *arguments, **options)
module.{owner}.{name} = faulty
sys.argv = ["hpcsamp", "train", {config!r}, "--output", {output!r}]
sys.argv += ["--set=training.checkpoint_every=2"]
from hpcsamp.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "owner", "name", "rank", "error", "words"),
    [
        (
            "losses.expected",
            "ExpectedNLL",
            "per_sample",
            1,
            "ValueError('in the loss')",
            "in the loss",
        ),
        ("data.batch", "Converter", "_move", 1, "OSError('in the loader')", "in the loader"),
        ("run.keeper", "Keeper", "_taken", 1, "OSError('in the state')", "in the state"),
        ("run.keeper", "Keeper", "_content", 0, "OSError('in the rest')", "in the rest"),
    ],
)
def test_one_rank_that_raises_ends_the_job(
    script, small, tmp_path, module, owner, name, rank, error, words
):
    code = FAULT.format(
        module=module,
        owner=owner,
        name=name,
        rank=rank,
        error=error,
        config=str(small),
        output=str(tmp_path / "run"),
    )
    done = script(3, code, timeout=LIMIT)
    assert done.code == 1, done.err
    assert len(done.errors) == 1, done.err
    assert words in done.errors[0]


def test_a_replica_that_differs_is_found(script, small, tmp_path):
    code = f"""
import sys, torch
from mpi4py import MPI
from hpcsamp.training.loop import Trainer
original = Trainer.step
def step(self, *a):
    original(self, *a)
    if MPI.COMM_WORLD.rank == 1 and self.method.step == 3:
        with torch.no_grad():
            self.method.mean[0] += 1e-9
Trainer.step = step
sys.argv = ["hpcsamp", "train", {str(small)!r}, "--output", {str(tmp_path / "run")!r}]
from hpcsamp.cli import main
main()
"""
    refused(script(2, code, timeout=LIMIT), 1, "replicas differ", "rank 0", "rank 1")


def test_a_run_that_was_refused_leaves_its_folder_to_the_next(small, tmp_path):
    folder, config = tmp_path / "run", load(small)
    RunFolder(folder).prepare(config, False)
    (folder / "provenance.json").write_text("of the refused run")
    second = RunFolder(folder)
    second.prepare(config, False)
    assert not (folder / "provenance.json").exists()
    second.log("train", step=1, loss=0.0)
    with pytest.raises(UsageError, match="already contains a run"):
        RunFolder(folder).prepare(config, False)
