"""Train a mixer on every grid with a model axis, and evaluate it; each run leaves its folder.

    mpirun -n 8 python tests/model_axis_cases.py FOLDER

One job trains all of them, on as many of its ranks as the grid has; the others sleep.
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from functools import partial
from pathlib import Path

from axis_runs import evaluate, named, run
from model_axis_grids import (
    EVALUATED,
    EVALUATIONS,
    GRIDS,
    HALF,
    RESUMED,
    RUNS_RESUMED,
    settings_of,
    trained,
)  # fmt: skip
from on_ranks import on

from hpcsamp.runtime import mpi

FOLDER = Path(sys.argv[1])
TRAIN = partial(run, file=FOLDER / "run.toml")


def main() -> None:
    for grid in GRIDS:
        ranks, folder = math.prod(grid), FOLDER / named(grid)
        for name in trained(grid):
            own = settings_of(name, grid)
            on(ranks, partial(TRAIN, grid=grid, settings=own, folder=folder / name))
    for grid in GRIDS[:2]:
        folder = FOLDER / named(grid) / "bfloat16"
        on(math.prod(grid), partial(TRAIN, grid=grid, settings=HALF, folder=folder))
    if mpi().COMM_WORLD.rank == 0:
        for name in EVALUATED:
            shutil.copytree(FOLDER / "1x1x2" / name, FOLDER / "runs" / name)
    for grid, name in itertools.product(EVALUATIONS, EVALUATED):
        out = FOLDER / "evaluated" / named(grid)
        work = partial(evaluate, run=FOLDER / "runs" / name, grid=grid, out=out, ood=True)
        on(math.prod(grid), work)
    for name in RUNS_RESUMED:
        folder = FOLDER / "resumed" / name
        for grid, steps in RESUMED.items():
            settings = (*settings_of(name, grid), f"training.steps={steps}")
            work = partial(TRAIN, grid=grid, settings=settings, folder=folder, resume=steps > 1)
            on(math.prod(grid), work)


main()
