"""``hpcsamp bench calibrate``: measure the machine constants that ``hpcsamp plan`` uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import Ranks, numbers


def calibrate(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Configurations to measure, as CONFIG or CONFIG:PRESET (default: a small ViT and "
            "MLP)."
        ),
    ] = None,
    ranks: Ranks = 2,
    batches: Annotated[
        str, typer.Option(help="Batch sizes of the timed passes, separated by commas.")
    ] = "8,32,96",
    check: Annotated[
        bool, typer.Option("--check", help="Also time whole steps and report the model's error.")
    ] = False,
    check_samples: Annotated[
        str, typer.Option(help="Weight samples S of the steps timed with --check.")
    ] = "2,4,8,16",
    check_batches: Annotated[
        str, typer.Option(help="Batch sizes of the steps timed with --check.")
    ] = "16,64",
    repeat: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    collectives: Annotated[str, typer.Option(help="auto, horovod or mpi.")] = "auto",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write the calibration to.")
    ] = Path("calibration.json"),
    records: Annotated[
        Path | None,
        typer.Option(
            help="File for the steps timed with --check, to be read by hpcsamp plan --check."
        ),
    ] = None,
) -> None:
    """Measure the constants of the performance model and, with --check, its error.

    Each rank uses one thread. The command starts its own ranks unless it runs under mpirun. The
    steps timed with --check are not used to fit the constants.

    Examples:

        hpcsamp bench calibrate --ranks 2 --output calibration.json

        hpcsamp bench calibrate vit-cifar10:small --check --records steps.jsonl
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.launcher import one_of_several

    asked = {"--batches": batches, "--check-samples": check_samples}
    sizes = {name: numbers(name, text) for name, text in asked.items()}
    sizes["--check-batches"] = numbers("--check-batches", check_batches)
    if not one_of_several():
        arguments = ["bench", "calibrate", *(configs or []), "--batches", batches]
        arguments += ["--check-samples", check_samples, "--check-batches", check_batches]
        arguments += ["--repeat", str(repeat), "--collectives", collectives, "-o", str(output)]
        arguments += ["--check"] if check else []
        arguments += ["--records", str(records)] if records else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    from hpcsamp.bench import calibrate as bench
    from hpcsamp.bench import records as lines
    from hpcsamp.bench.constants import QUIET

    pairs = [(s, b) for s in sizes["--check-samples"] for b in sizes["--check-batches"]]
    found, steps = bench.measure(
        configs or bench.MODELS,
        sizes["--batches"],
        pairs if check else [],
        repeat,
        collectives_name=collectives,
    )
    if found is None:
        return
    from hpcsamp.cli.output import show
    from hpcsamp.planning.calibration import save

    save(output, found)
    link = found.link
    show(
        f"constants of {found.machine['cpu']}, {found.ranks} ranks; written to {output}",
        ["constant", "value", "unit"],
        [
            *_of_models(found),
            ["draw", f"{1e9 * found.draw:.3g}", "ns per weight and sample"],
            ["penalty", f"{1e9 * found.penalty:.3g}", "ns per weight"],
            ["optimiser", f"{1e9 * found.update:.3g}", "ns per parameter"],
            ["augment", f"{1e9 * found.augment:.3g}", "ns per byte"],
            ["read", f"{1e9 * found.read:.3g}", "ns per byte"],
            ["agreement", f"{1e6 * found.agreement:.3g}", "us"],
            ["link, latency", f"{1e6 * link.alpha:.3g}" if link else None, "us"],
            ["link, bandwidth", f"{1e-9 * link.bandwidth:.3g}" if link else None, "GB/s"],
            ["Horovod", f"{found.cycles:.3g}", "cycles"],
            ["jitter", f"{100 * found.jitter:.3g}", "%"],
        ],
    )
    if found.disturbed > QUIET:
        typer.echo(
            f"hpcsamp: warning: other processes made the ranks wait for a core "
            f"{found.disturbed:.0%} of the time; measure again on a quiet machine",
            err=True,
        )
    if check:
        _compare(steps)
    if records is not None:
        lines.write(records, steps)


def _of_models(found: Any) -> list[list[Any]]:
    rows = []
    for m in found.models:
        rows += [
            [f"{m.name}, pass of b items", f"{1e3 * m.base:.3g} + {1e3 * m.per_item:.3g} b", "ms"],
            [f"{m.name}, overhead of a step", f"{1e3 * m.overhead:.3g}", "ms"],
            [f"{m.name}, all ranks at the same time", f"{m.crowd:.3f}", "slowdown factor"],
            [f"{m.name}, error of the fit", f"{100 * m.error:.2g}", "%"],
        ]
    return rows


def _compare(steps: list[dict[str, Any]]) -> None:
    from hpcsamp.cli.output import show
    from hpcsamp.planning import fit

    points = [p for p in map(fit.point, steps) if p is not None]
    error = fit.errors([r["predicted"] for r in steps], points)
    show(
        "whole training steps that were not used to fit the constants",
        ["model", "S", "batch", "ranks", "measured ms", "predicted ms", "error %"],
        [
            [
                r["model"], r["samples"], r["batch"], r["world_size"],
                f"{1e3 * r['seconds_per_step']:.3f}", f"{1e3 * r['predicted']:.3f}",
                f"{100 * (r['predicted'] / r['seconds_per_step'] - 1):+.1f}",
            ]
            for r in steps
        ],
    )  # fmt: skip
    typer.echo(
        f"error on {error['points']} held-out points: median {error['median']:.1%}, largest "
        f"{error['max']:.1%}"
    )
