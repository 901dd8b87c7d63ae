"""Train a mixer on every grid with a model axis, and evaluate it; each run leaves its folder.

    mpirun -n 8 python tests/model_axis_cases.py FOLDER

One job trains all of them, on as many of its ranks as the grid has; the others sleep.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
from functools import partial
from pathlib import Path

from model_axis_grids import EVALUATED, EVALUATIONS, GRIDS, RESUMED, RUNS, RUNS_RESUMED, trained
from on_ranks import on

from hpcsamp import config
from hpcsamp.grid import init
from hpcsamp.prediction.evaluate import evaluate_run
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import predict
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.prepare import prepare
from hpcsamp.run.restore import restore
from hpcsamp.runtime import mpi
from hpcsamp.training.loop import train

FOLDER = Path(sys.argv[1])


def run(comm, grid: tuple[int, int, int], settings: tuple[str, ...], folder: Path, resume=False):
    own = [f"parallel.samples={grid[1]}", f"parallel.model={grid[2]}", *settings]
    c = prepare(config.load(FOLDER / "run.toml", own), "synthetic", comm)
    topology = init(c.parallel.samples, model=c.parallel.model, comm=comm)
    train(c, topology, folder, resume)


def evaluate(comm, grid: tuple[int, int, int], name: str):
    folder = RunFolder(FOLDER / "runs" / name)
    c = folder.config([f"parallel.samples={grid[1]}", f"parallel.model={grid[2]}"])
    topology = init(c.parallel.samples, model=c.parallel.model, comm=comm)
    posterior = Posterior(restore(folder, c, topology), topology)
    out = FOLDER / "evaluated" / "x".join(map(str, grid))
    if topology.is_root:
        out.mkdir(parents=True, exist_ok=True)
    found = evaluate_run(posterior, ood=c.data.path)
    predict(posterior, out / f"{name}.h5", keep_samples=True)
    if topology.is_root:
        (out / f"{name}.json").write_text(json.dumps(found["metrics"]))
        (folder.path / "evaluation" / "test.h5").rename(out / f"{name}-items.h5")


def main() -> None:
    for grid in GRIDS:
        ranks, folder = math.prod(grid), FOLDER / "x".join(map(str, grid))
        for name in trained(grid):
            on(ranks, partial(run, grid=grid, settings=RUNS[name], folder=folder / name))
    if mpi().COMM_WORLD.rank == 0:
        for name in EVALUATED:
            shutil.copytree(FOLDER / "1x1x2" / name, FOLDER / "runs" / name)
    for grid, name in itertools.product(EVALUATIONS, EVALUATED):
        on(math.prod(grid), partial(evaluate, grid=grid, name=name))
    for name in RUNS_RESUMED:
        folder = FOLDER / "resumed" / name
        for grid, steps in RESUMED.items():
            settings = (*RUNS[name], f"training.steps={steps}")
            again = partial(run, grid=grid, settings=settings, folder=folder, resume=steps > 1)
            on(math.prod(grid), again)


main()
