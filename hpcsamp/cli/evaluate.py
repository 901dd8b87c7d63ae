"""``hpcsamp evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    split: Annotated[str, typer.Option(help="Which split to evaluate.")] = "test",
    data: Annotated[
        Path | None, typer.Option(help="Another dataset of the same meaning (default: the run's).")
    ] = None,
    ood: Annotated[
        Path | None,
        typer.Option(help="Out-of-distribution dataset: do uncertainties tell its items apart?"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples of the predictive (default: evaluation.samples, else the method's)"
        ),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help='"last", "best", or the path of a checkpoint.')
    ] = "last",
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each number is, and how it is defined.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key, e.g. data.path=...")
    ] = None,
    stall: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds without a sign of life of a rank that end the job (default: the run's).",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here.")] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Evaluate the posterior predictive of a run: alone, or on every rank under mpirun or srun."""
    from hpcsamp.grid import init, together
    from hpcsamp.run.folder import RunFolder
    from hpcsamp.runtime import mpi

    folder = RunFolder(run)
    with together(mpi().COMM_WORLD):
        config = folder.config(settings or ())
    topology = init(config.parallel.samples, device=config.parallel.device)
    from hpcsamp.prediction.evaluate import evaluate_run
    from hpcsamp.prediction.posterior import Posterior
    from hpcsamp.run.restore import restore
    from hpcsamp.watchdog import STALL
    from hpcsamp.watchdog.dog import Watchdog

    seconds = config.training.stall if stall is None else stall
    with Watchdog(topology.world, seconds, run / STALL):
        restored = restore(folder, config, topology, samples=samples, which=checkpoint)
        result = evaluate_run(
            folder, Posterior(restored, topology), data=data, split=split, ood=ood
        )
    if topology.is_root:
        for line in result["notes"]:
            typer.echo(line)
        _show(run, result, explain, json_file)


def _show(run: Path, result: dict[str, Any], explain: bool, json_file: Path | None) -> None:
    from hpcsamp.cli.output import Cell, show
    from hpcsamp.prediction.evaluator import NOT_METRICS

    notes = [result["split"], f"{result['samples']} samples", result["checkpoint"]]
    if result["temperature"] != 1:
        notes.append(f"temperature {result['temperature']}")
    if "noise" in result:
        std = result["noise"].get("std")
        notes.append("noise" + ("" if std is None else f" std {std:.4g}"))
        notes[-1] += f" ({result['noise']['source']})"
    said, units = result["definitions"], result["units"]
    table: list[list[Cell]] = []
    for name, value in result["metrics"].items():
        row: list[Cell] = [name, f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"]
        if name == "items":
            row[1] = f"{value:.0f}"
        table.append([*row, units.get(name, ""), *([said.get(name, "")] if explain else [])])
    columns = ["metric", "value", "unit", *(["what it is"] if explain else [])]
    if not any(row[2] for row in table):
        columns.remove("unit")
        table = [row[:2] + row[3:] for row in table]
    title = f"{run}: {', '.join(notes)}"
    if "weights" in said:
        title += f"; {said['weights']}"
    show(title, columns, table, json_file=json_file, data=result)
    for why in sorted(set(result["unattained"].values())):
        left_out = ", ".join(k for k, v in result["unattained"].items() if v == why)
        print(f"not attained: {left_out} ({why})")
    rows = result["rows"]
    if rows:
        names = [k for k in rows if k not in NOT_METRICS]
        with_units = any(rows["units"])
        show(
            f"by {rows['name']}",
            [rows["name"], *(["unit"] if with_units else []), *names],
            [
                [
                    label,
                    *([unit] if with_units else []),
                    *(float(f"{rows[k][i]:.4g}") for k in names),
                ]
                for i, (label, unit) in enumerate(zip(rows["labels"], rows["units"], strict=True))
            ],
        )
