"""Train split networks on every grid with a model axis; each run leaves its folder.

    mpirun -n 4 python tests/network_axis_cases.py FOLDER

One job trains all of them, on as many of its ranks as the grid has; the others sleep.
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from functools import partial
from pathlib import Path

from axis_runs import Grid, evaluate, named, run
from network_axis_grids import (
    EVALUATED,
    EVALUATIONS,
    RESUMED,
    RUNS,
    RUNS_RESUMED,
    grids_of,
)  # fmt: skip
from on_ranks import on

from hpcsamp.runtime import mpi

FOLDER = Path(sys.argv[1])


def train(name: str, grid: Grid, folder: Path, steps: int = 4, resume: bool = False) -> None:
    base, settings = RUNS[name]
    own = (f"training.steps={steps}", *settings)
    on(math.prod(grid), partial(run, file=FOLDER / f"{base}.toml", grid=grid, settings=own,
                                folder=folder, resume=resume))  # fmt: skip


def main() -> None:
    for name in RUNS:
        for grid in grids_of(name):
            train(name, grid, FOLDER / named(grid) / name)
    if mpi().COMM_WORLD.rank == 0:
        for name in EVALUATED:
            shutil.copytree(FOLDER / "1x1x2" / name, FOLDER / "runs" / name)
    for grid, name in itertools.product(EVALUATIONS, EVALUATED):
        out = FOLDER / "evaluated" / named(grid)
        on(math.prod(grid), partial(evaluate, run=FOLDER / "runs" / name, grid=grid, out=out))
    for name in RUNS_RESUMED:
        for i, grid in enumerate(RESUMED):
            train(name, grid, FOLDER / "resumed" / name, (1, 2, 4)[i], i > 0)


main()
