"""``hpcsamp bench reference``: compare held-out likelihood with scikit-learn's models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import Ranks


def reference(
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Number of seeds, each with its own split and initial weights."),
    ] = 5,
    sets: Annotated[
        list[str] | None, typer.Option("--data", help="Dataset; repeatable (default: all).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--model", help="Model; repeatable (default: all).")
    ] = None,
    ranks: Ranks = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Compare held-out likelihoods with those of scikit-learn's models on small datasets.

    All models use the same splits of scikit-learn's three datasets. The ranks of the job share the
    fits, one thread each. The command starts its own ranks unless it runs under mpirun.

    Examples:

        hpcsamp bench reference --seeds 1 --ranks 2

        hpcsamp bench reference --data diabetes --json reference.json
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.bench.reference import SETS, models_of
    from hpcsamp.errors import UsageError
    from hpcsamp.launcher import one_of_several
    from hpcsamp.spelling import suggest

    chosen, models = sets or list(SETS), only or []
    for option, names, known in (
        ("--data", chosen, list(SETS)),
        ("--model", models, sorted({m for name in SETS for m in models_of(name)})),
    ):
        for name in names:
            if name not in known:
                raise UsageError(
                    f"{option} {name!r}{suggest(name, known)}; choose from {', '.join(known)}"
                )
    if ranks > 1 and not one_of_several():
        arguments = ["bench", "reference", "--seeds", str(seeds)]
        arguments += [f"--data={name}" for name in chosen] + [f"--model={m}" for m in models]
        arguments += ["--json", str(json_file)] if json_file else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    _measured_reference(chosen, models, seeds, json_file)


def _measured_reference(
    sets: list[str], only: list[str], seeds: int, json_file: Path | None
) -> None:
    import torch

    from hpcsamp.bench.reference import Fit, fits, table
    from hpcsamp.cli.output import show
    from hpcsamp.grid import init, together

    topology = init("world", device="cpu")
    torch.set_num_threads(1)
    todo = [f for f in fits(sets, list(range(seeds))) if not only or f.model in only]
    local: dict[Fit, dict[str, float]] = {}
    with together(topology.world):
        for fit in todo[topology.rank :: topology.size]:
            local[fit] = fit.run()
    every = topology.world.allgather(local)
    if topology.is_root:
        found = {fit: part[fit] for fit in todo for part in every if fit in part}
        rows = table(found)

        def text(row: dict[str, Any], metric: str, digits: int) -> str | None:
            value = row.get(metric)
            return value and f"{value['mean']:.{digits}f} +- {value['std']:.{digits}f}"

        show(
            f"test items (20 %), {seeds} splits and seeds, mean +- standard deviation over them",
            ["dataset", "model", "NLL (nats per item)", "RMSE", "accuracy", "seconds"],
            [
                [
                    row["set"],
                    row["model"],
                    text(row, "nll", 3),
                    text(row, "rmse", 2),
                    text(row, "accuracy", 3),
                    f"{row['seconds']['mean']:.1f}",
                ]
                for row in rows
            ],
            json_file=json_file,
            data={"seeds": seeds, "rows": rows},
        )
