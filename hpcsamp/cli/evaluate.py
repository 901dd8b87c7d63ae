"""``hpcsamp evaluate``: metrics of a run on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits, Verbose, check_levels
from hpcsamp.cli.posterior import (
    Checkpoint,
    Data,
    Samples,
    Settings,
    Stall,
    Uncalibrated,
    posteriors_of,
)


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folder; several are evaluated as one mixture, see --json."
        ),
    ],
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    data: Data = None,
    ood: Annotated[
        Path | None,
        typer.Option(help="Out-of-distribution dataset: measure how well uncertainty detects it."),
    ] = None,
    samples: Samples = None,
    checkpoint: Checkpoint = "last",
    uncalibrated: Uncalibrated = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add a column with the definition of each metric.")
    ] = False,
    settings: Settings = None,
    stall: Stall = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the metrics to this JSON file.")
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Print only the metrics of the split, without those of each target.",
        ),
    ] = False,
    verbose: Verbose = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Evaluate the posterior predictive of a run, in one process or on all ranks under mpirun.

    Several runs are evaluated as an ensemble: the mixture of their predictives with equal weights.
    Its metrics are not kept in the folder of a run; --json writes them.

    Examples:

        hpcsamp evaluate runs/a

        mpirun -n 4 hpcsamp evaluate runs/a --split valid --samples 64
    """
    check_levels(quiet, verbose)
    from hpcsamp.errors import UsageError
    from hpcsamp.watchdog import STALL

    several = len(runs) > 1
    if several and ood is not None:
        raise UsageError("--ood takes one run, not several")
    with posteriors_of(
        runs, settings, samples, checkpoint, stall, runs[0] / STALL,
        recalibrate=not (several or uncalibrated),
    ) as posteriors:  # fmt: skip
        if several:
            from hpcsamp.prediction.mixture import Mixture, evaluate_mixture

            result = evaluate_mixture(Mixture(posteriors), data=data, split=split)
        else:
            from hpcsamp.prediction.evaluate import evaluate_run

            result = evaluate_run(posteriors[0], data=data, split=split, ood=ood)
    if posteriors[0].topology.is_root:
        for line in result["notes"]:
            typer.echo(line)
        title = f"mixture of {len(runs)} runs" if several else str(runs[0])
        _show(title, result, explain, json_file, brief=quiet)


def _show(
    name: str, result: dict[str, Any], explain: bool, json_file: Path | None, brief: bool
) -> None:
    from hpcsamp.cli.output import Cell, show
    from hpcsamp.prediction.evaluator import NOT_METRICS, by_target

    notes = [result["split"], f"{result['samples']} samples", result["checkpoint"]]
    if result["temperature"] != 1:
        notes.append(f"temperature {result['temperature']}")
    if "noise" in result:
        one = "source" in result["noise"]
        for of, noise in {"": result["noise"]}.items() if one else result["noise"].items():
            std = noise.get("std")
            notes.append(f"noise of {of}".removesuffix(" of "))
            notes[-1] += ("" if std is None else f" std {std:.4g}") + f" ({noise['source']})"
    if of := result.get("laplace"):
        notes.append(f"Laplace posterior ({of['kind']}, {of['predictive']})")
    notes += recalibration_of(result.get("recalibration", {}))
    definitions, units = result["definitions"], result["units"]
    table: list[list[Cell]] = []
    for name, value in result["metrics"].items():
        row: list[Cell] = [name, f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"]
        if name.rpartition("/")[2] == "items":
            row[1] = f"{value:.0f}"
        defined = [definitions.get(name, "")] if explain else []
        table.append([*row, units.get(name, ""), *defined])
    columns = ["metric", "value", "unit", *(["definition"] if explain else [])]
    if not any(row[2] for row in table):
        columns.remove("unit")
        table = [row[:2] + row[3:] for row in table]
    title = f"{name}: {', '.join(notes)}"
    if "weights" in definitions:
        title += f"; {definitions['weights']}"
    show(title, columns, table, json_file=json_file, data=result)
    for why in sorted(set(result["unattained"].values())):
        left_out = ", ".join(k for k, v in result["unattained"].items() if v == why)
        print(f"not computed: {left_out} ({why})")
    if of := {} if brief else result.get("series", {}):
        keys = [k for k in of if k != "labels"]
        lines = zip(of["labels"], *(of[k] for k in keys), strict=True)
        show(
            "by series, in its units; above: means over all values of all series",
            ["series", *keys],
            [[label, *(float(f"{v:.4g}") for v in values)] for label, *values in lines],
        )
    for rows in [] if brief else by_target(result["rows"]):
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


def recalibration_of(facts: dict[str, Any]) -> list[str]:
    """Describe the recalibration used by the results: the scaling and the stated coverage."""
    if facts.get("used") != "yes":
        return []
    several = {k: v for k, v in facts.items() if isinstance(v, dict)}
    notes = []
    for name, of in (several or {"": facts}).items():
        start = f"{name}: " if name else ""
        if "scaling" in of:
            t = of.get("softmax_temperature")
            notes.append(f"{start}{of['scaling']} scaling" + (f" {t:.4g}" if t is not None else ""))
        if "score" in of:
            notes.append(
                f"{start}conformal {of['score']} with a coverage of {of['coverage']:.4g} from "
                f"{of['items']} items of {facts['split']}"
            )
    return notes
