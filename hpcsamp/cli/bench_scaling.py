"""``hpcsamp bench scaling``: measure the scaling figures of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcsamp.cli.options import RANKS, numbers
from hpcsamp.names import ScalingMode

if TYPE_CHECKING:
    from hpcsamp.bench.scaling import Experiment

MEASURES = {
    "fixed": "speed-up",
    "fixed-growing-batch": "speed-up",
    "proportional": "efficiency",
}


def scaling(
    workload: Annotated[
        str, typer.Option(help="vit-cifar10, mlp-entsoe, swin-era5, mixer-era5, vit-digits.")
    ] = "vit-cifar10",
    ranks: Annotated[
        str, typer.Option(help=f"{RANKS}; several numbers separated by commas, e.g. 1,2.")
    ] = "1,2",
    small: Annotated[
        bool, typer.Option("--small", help="Use sizes for two cores instead of the figure's.")
    ] = False,
    mode: Annotated[
        ScalingMode,
        typer.Option(help="Keep S and batch fixed, or let the batch or S grow with the ranks."),
    ] = "fixed",
    grids: Annotated[
        str,
        typer.Option(help="sampling, data, hybrid, separated by commas (default: the figure's)."),
    ] = "",
    model_ranks: Annotated[
        str,
        typer.Option(
            help="Numbers of model ranks M, separated by commas; each is measured on all grids."
        ),
    ] = "1",
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one warm-up round.")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps per round; 0 for a whole epoch.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Weight samples S; samples per rank with --mode proportional."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Items per step.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help='Dataset folder (default: "synthetic"; with --inside: data.path).'),
    ] = None,
    inside: Annotated[
        bool,
        typer.Option("--inside", help="Measure one configuration on the ranks of this job."),
    ] = False,
    config: Annotated[
        str | None, typer.Option(help="With --inside: the configuration, as for hpcsamp train.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the records to.")] = None,
) -> None:
    """Time training steps on increasing numbers of ranks: speed-up, or efficiency if S grows.

    The command starts its own jobs on this machine, one thread per rank, in alternating rounds.
    With --inside it measures one configuration on the ranks that mpirun or srun started, e.g. as a
    point of a campaign, and writes one record.

    Examples:

        hpcsamp bench scaling --workload vit-digits --ranks 1,2 --small

        mpirun -n 2 hpcsamp bench scaling --inside --config vit-digits --out records
    """
    from hpcsamp.bench.workloads import find

    if inside:
        _inside(workload, config, rounds, steps, tuple(settings or ()), data, out)
        return
    from hpcsamp.bench import records, scaling
    from hpcsamp.bench.workloads import points
    from hpcsamp.cli.output import show

    found = find(workload)
    size = found.small if small else found.full
    if samples is not None:
        size = replace(size, samples=samples, per_rank=samples)
    if batch is not None:
        size = replace(size, batch=batch, proportional_batch=batch)
    if steps is not None:
        size = replace(size, steps=steps)
    experiment = scaling.Experiment(
        workload, found, size, mode, tuple(settings or ()), data or "synthetic"
    )
    models = numbers("--model-ranks", model_ranks)
    chosen, notes = points(size, mode, numbers("--ranks", ranks), _grids(grids, mode), models)
    measured = scaling.measure(experiment, chosen, rounds)
    rows = scaling.compared(measured)
    show(_title(experiment, measured), *_table(rows, MEASURES[mode]))
    for note in notes:
        typer.echo(f"left out: {note}")
    if out is not None:
        path = out / f"scaling-{workload}-{mode}.jsonl"  # a figure reads several from one folder
        records.write(path, measured)
        typer.echo(f"records in {path}")


def _inside(
    workload: str,
    config: str | None,
    rounds: int,
    steps: int | None,
    settings: tuple[str, ...],
    data: str | None,
    out: Path | None,
) -> None:
    from hpcsamp.bench import records, scaling
    from hpcsamp.bench.variants import OURS, Variant
    from hpcsamp.bench.workloads import find

    name = config or find(workload).config
    variant = Variant(OURS, "one configuration", name, None, settings, 0, data, steps or 0)
    found = scaling.inside(variant, rounds, workload)
    if found is None:
        return
    typer.echo(
        f"{found['world_size']} ranks, {found['grid']}, S = {found['samples']}, batch "
        f"{found['batch']}: {found['seconds_per_step']:.4g} s per step, "
        f"{found['seconds_per_epoch']:.4g} s per epoch"
    )
    if out is not None:
        records.write(out / "scaling.json", [found])


def _grids(text: str, mode: str) -> list[str]:
    from hpcsamp.bench.workloads import GRIDS
    from hpcsamp.errors import UsageError
    from hpcsamp.spelling import suggest

    found = text.split(",") if text else ["sampling"] if mode == "proportional" else list(GRIDS)
    for grid in found:
        if grid not in GRIDS:
            known = ", ".join(GRIDS)
            raise UsageError(f"--grids {grid}: choose from {known}{suggest(grid, GRIDS)}")
    return found


def _title(experiment: Experiment, measured: list[dict[str, Any]]) -> str:
    first = measured[0]
    return (
        f"{experiment.model}, {experiment.mode}: whole steps including data loading, "
        f"{first['threads']} thread "
        f"per rank, {first['machine']['cpu']}; medians and ranges of {len(first['rounds'])} rounds"
    )


def _table(rows: list[dict[str, Any]], measure: str) -> tuple[list[str], list[list[Any]]]:
    from hpcsamp.training.phases import NAMES

    phases = [n for n in NAMES if any(r["record"]["phases"].get(n, 0) >= 5e-6 for r in rows)]
    lines = []
    for row in rows:
        r = row["record"]
        lines.append(
            [
                r["label"], r["samples"], r["batch"],
                _ms(r["seconds_per_step"]), f"{r['seconds_per_epoch']:.3g}",
                f"{row['measure']:.3f}", f"{row['spread'][0]:.2f}-{row['spread'][1]:.2f}",
                f"{row['ideal']:g}", f"{max(r['peak_rss_mb']):.0f}",
                *(_ms(r["phases"].get(n, 0.0)) for n in phases),
            ]
        )  # fmt: skip
    columns = [
        "grid", "S", "batch", "ms per step", "s per epoch", measure, "range", "ideal",
        "MiB per rank", *phases,
    ]  # fmt: skip
    return columns, lines


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"
