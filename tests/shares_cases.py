"""Train with sharded weights on several grids; each run leaves its folder.

    mpirun -n 6 python tests/shares_cases.py FOLDER

One job trains all of them, on as many of its ranks as the grid has; the others sleep. Stretches are
short, so that variables are exchanged in several.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

from on_ranks import on
from shares_grids import FEW, GRIDS, RESUMED, RUNS

from hpcsamp import config
from hpcsamp.grid import init
from hpcsamp.methods import gathering, sharing
from hpcsamp.run.prepare import prepare
from hpcsamp.training.loop import train

FOLDER = Path(sys.argv[1])


def run(comm, grid: tuple[int, int], settings: tuple[str, ...], folder: Path, resume=False):
    c = config.load(FOLDER / "run.toml", [f"parallel.samples={grid[1]}", *settings])
    c = prepare(c, None, comm)
    train(c, init(c.parallel.samples, comm=comm), folder, resume)


def main() -> None:
    sharing.STRETCH = gathering.STRETCH = 700
    for grid in GRIDS:
        for name, settings in RUNS.items():
            if name != "stream" and grid not in FEW:
                continue
            folder = FOLDER / "x".join(map(str, grid)) / name
            on(math.prod(grid), partial(run, grid=grid, settings=settings, folder=folder))
    for i, parts in enumerate(RESUMED):
        for j, (grid, sharded) in enumerate(parts):
            own = (*RUNS["clipped"], f"optimizer.sharded={sharded}", f"training.steps={4 + 6 * j}")
            work = partial(run, grid=grid, settings=own, folder=FOLDER / "resumed" / str(i))
            on(math.prod(grid), partial(work, resume=j > 0))


main()
