"""Train a mixer on every grid with a model axis; each run leaves its folder.

    mpirun -n 8 python tests/model_axis_cases.py FOLDER

One job trains all of them, on as many of its ranks as the grid has; the others sleep.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

from model_axis_grids import FEW, GRIDS, RESUMED, RUNS, RUNS_RESUMED
from on_ranks import on

from hpcsamp import config
from hpcsamp.grid import init
from hpcsamp.run.prepare import prepare
from hpcsamp.training.loop import train

FOLDER = Path(sys.argv[1])


def run(comm, grid: tuple[int, int, int], settings: tuple[str, ...], folder: Path, resume=False):
    own = [f"parallel.samples={grid[1]}", f"parallel.model={grid[2]}", *settings]
    c = prepare(config.load(FOLDER / "run.toml", own), "synthetic", comm)
    topology = init(c.parallel.samples, model=c.parallel.model, comm=comm)
    train(c, topology, folder, resume)


def main() -> None:
    for grid in GRIDS:
        ranks, folder = math.prod(grid), FOLDER / "x".join(map(str, grid))
        for name, settings in RUNS.items():
            if name == "mean_field" or grid in FEW:
                on(ranks, partial(run, grid=grid, settings=settings, folder=folder / name))
    for i, (before, after) in enumerate(RESUMED):
        for name in RUNS_RESUMED:
            folder = FOLDER / "resumed" / str(i) / name
            first = (*RUNS[name], "training.steps=2")
            on(math.prod(before), partial(run, grid=before, settings=first, folder=folder))
            on(
                math.prod(after),
                partial(run, grid=after, settings=RUNS[name], folder=folder, resume=True),
            )


main()
