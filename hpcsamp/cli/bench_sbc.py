"""``hpcsamp bench sbc``: simulation-based calibration of the methods that claim a posterior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import Ranks


def sbc(
    fits: Annotated[
        int, typer.Option(min=10, help="Number of datasets for each design; each is fitted once.")
    ] = 500,
    draws: Annotated[
        int,
        typer.Option(min=1, help="Number of posterior draws that a true value is ranked among."),
    ] = 63,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, data and methods.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option("--method", help="Method to test; repeatable (default: all but svgd)."),
    ] = None,
    ranks: Ranks = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Check posteriors by simulation-based calibration on linear regressions (Talts et al. 2018).

    True weights are drawn from the prior, and data from the model with these weights. The ranks of
    the true weights among draws of an exact posterior are uniform; a histogram with high ends shows
    a posterior that is too narrow. The processes of the job divide the fits, with one thread each.
    The command starts its own ranks unless it runs under mpirun.

    Examples:

        hpcsamp bench sbc --method ivon --method laplace

        hpcsamp bench sbc --fits 1000 --draws 127 --json sbc.json
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.bench.sbc import METHODS, USUAL
    from hpcsamp.errors import UsageError
    from hpcsamp.launcher import one_of_several
    from hpcsamp.spelling import suggest

    known = list(METHODS)
    for name in only or []:
        if name not in known:
            raise UsageError(
                f"--method {name!r}{suggest(name, known)}; choose from {', '.join(known)}"
            )
    if ranks > 1 and not one_of_several():
        arguments = ["bench", "sbc", f"--fits={fits}", f"--draws={draws}", f"--seed={seed}"]
        arguments += [f"--method={name}" for name in only or []]
        arguments += ["--json", str(json_file)] if json_file else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    _measured_sbc([name for name in known if name in (only or USUAL)], fits, draws, seed, json_file)


def _measured_sbc(
    names: list[str], fits: int, draws: int, seed: int, json_file: Path | None
) -> None:
    import numpy as np
    import torch

    from hpcsamp.bench.sbc import LEVEL, Block, blocks, table
    from hpcsamp.cli.output import show
    from hpcsamp.grid import init, together

    topology = init("world", device="cpu")
    torch.set_num_threads(1)
    todo = blocks(names, fits)
    local: dict[Block, np.ndarray] = {}
    with together(topology.world):
        for block in todo[topology.rank :: topology.size]:
            local[block] = block.run(draws, seed)
    every = topology.world.allgather(local)
    if topology.is_root:
        found = {block: part[block] for block in todo for part in every if block in part}
        rows = table(found, draws)
        show(
            f"ranks of true values among {draws} draws, {fits} datasets of each design "
            f"(spread 1: right width, above 1: too narrow; uniform: p >= {LEVEL})",
            ["method", "design", "of", "claim", "p", "uniform", "spread", "mean rank", "histogram"],
            [
                [
                    row["method"],
                    row["design"],
                    row["quantity"],
                    "exact" if row["claims_exact"] else "approximate",
                    f"{row['p']:.2g}",
                    row["uniform"],
                    f"{row['spread']:.2f}",
                    f"{row['centre']:.3f}",
                    row["bars"],
                ]
                for row in rows
            ],
            json_file=json_file,
            data={"fits": fits, "draws": draws, "seed": seed, "level": LEVEL, "rows": rows},
        )
