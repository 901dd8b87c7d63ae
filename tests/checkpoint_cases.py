"""Checkpoints of two ranks that hold different parts; each case leaves its folder.

    mpirun -n 2 python tests/checkpoint_cases.py CONFIG FOLDER [killed]

Everything is large enough to be shared out here. Writing takes so long that several steps are taken
meanwhile, where it is done behind them.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

from hpcsamp import config
from hpcsamp.errors import CheckpointError
from hpcsamp.grid import init
from hpcsamp.run import checkpoint, saved, taken
from hpcsamp.run.prepare import prepare
from hpcsamp.runtime import mpi
from hpcsamp.training.loop import Trainer

CONFIG, FOLDER = sys.argv[1], Path(sys.argv[2])
WORLD = mpi().COMM_WORLD
SHARES = "optimizer.sharded=weights"
ROWS = ("method.name=ensemble", "method.prior_std=1.0", "optimizer.sharded=false")
SAME = ("optimizer.sharded=false", "training.ema=0.9")


def run(name: str, *settings: str, resume: bool = False) -> Trainer:
    asked = (SHARES, "training.steps=8", "training.checkpoint_every=3", *settings)
    c = prepare(config.load(CONFIG, asked), None, WORLD)
    with Trainer(c, init(c.parallel.samples), FOLDER / name, resume, quiet=True) as trainer:
        trainer.run()
    return trainer


def slowly(f, content, *, write=checkpoint.write) -> None:
    """As on a file system that is slow: the run takes other steps before anything is written."""
    begun, until = steps[-1], time.monotonic() + 0.5
    while steps[-1] == begun and time.monotonic() < until:
        time.sleep(0.001)
    write(f, content)


steps = [0]


def observed(step=Trainer.step):
    def counted(self, epoch, batch):
        step(self, epoch, batch)
        steps.append(self.method.step)

    return counted


def opened_files(trainer: Trainer) -> list[int]:
    """Whose files a rank opens for its own part."""
    path = checkpoint.latest(trainer.folder.checkpoints)
    found = saved.Saved(path)
    for state in ("method", "optimizer"):
        found.state(state, trainer.keeper.places)
    return sorted(found._files)


def full(f, content, *, write=checkpoint.write) -> None:
    """The second rank's disk is full in the checkpoint of step 6."""
    if WORLD.rank == 1 and "step-00000006" in f.name:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            write(f, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    else:
        write(f, content)


def killed(f, content, *, write=checkpoint.write) -> None:
    """The second rank is killed when it has written a part of the checkpoint of step 6."""
    if WORLD.rank == 1 and "step-00000006" in f.name:
        f.write(b"a part")
        f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(f, content)


def main() -> None:
    taken.LARGE = 64
    Trainer.step = observed()
    if sys.argv[3:]:
        checkpoint.write = killed
        run("killed")
    usual = checkpoint.write
    for name, settings in {"shares": (), "rows": ROWS, "same": SAME}.items():
        checkpoint.write = slowly
        run(name, *settings, "training.keep=3")
        checkpoint.write = usual
        run(f"{name}-waiting", *settings, "training.checkpoint_behind=false", "training.keep=3")
    expected = [0, 1] if WORLD.rank else [0]
    for name, settings in {"shares": (), "rows": ROWS}.items():
        found = opened_files(run(name, *settings, "training.keep=3", resume=True))
        assert found == expected, found
    checkpoint.write = full
    try:
        run("full")
    except CheckpointError as e:
        told = WORLD.allgather(str(e))
        assert told[0] == told[1], told
        (FOLDER / "full.txt").write_text(told[0])
    else:
        raise AssertionError("a full disk was not noticed")


main()
