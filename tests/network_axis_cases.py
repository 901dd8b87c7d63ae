"""Train split networks on every grid with a model axis; each run leaves its folder.

    mpirun -n 4 python tests/network_axis_cases.py FOLDER

One job trains all of them, on as many of its ranks as the grid has; the others sleep.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

from network_axis_grids import RESUMED, RUNS, RUNS_RESUMED, grids_of
from on_ranks import on

from hpcsamp import config
from hpcsamp.grid import init
from hpcsamp.run.prepare import prepare
from hpcsamp.training.loop import train

FOLDER = Path(sys.argv[1])


def run(comm, grid: tuple[int, int, int], name: str, folder: Path, steps: int = 4, resume=False):
    base, settings = RUNS[name]
    own = [f"parallel.samples={grid[1]}", f"parallel.model={grid[2]}", f"training.steps={steps}"]
    c = prepare(config.load(FOLDER / f"{base}.toml", [*own, *settings]), "synthetic", comm)
    topology = init(c.parallel.samples, model=c.parallel.model, comm=comm)
    train(c, topology, folder, resume)


def main() -> None:
    for name in RUNS:
        for grid in grids_of(name):
            folder = FOLDER / "x".join(map(str, grid)) / name
            on(math.prod(grid), partial(run, grid=grid, name=name, folder=folder))
    for name in RUNS_RESUMED:
        for i, grid in enumerate(RESUMED):
            work = partial(run, grid=grid, name=name, folder=FOLDER / "resumed" / name)
            on(math.prod(grid), partial(work, steps=(1, 2, 4)[i], resume=i > 0))


main()
