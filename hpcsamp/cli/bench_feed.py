"""``hpcsamp bench feed``: time and bytes needed to deliver a batch to all ranks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hpcsamp.cli.options import Ranks


def feed(
    like: Annotated[
        Literal["cifar10", "era5", "both"], typer.Option(help="Dataset whose item size is used.")
    ] = "both",
    ranks: Ranks = 4,
    batch: Annotated[
        int,
        typer.Option(min=0, help="Items per step; 0 for the default, 1024 (cifar10) or 8 (era5)."),
    ] = 0,
    repeat: Annotated[
        int, typer.Option(min=1, help="Number of timed rounds; the median is reported.")
    ] = 7,
    collective: Annotated[
        bool, typer.Option("--collective/--no-collective", help="Also time collective reads.")
    ] = True,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="Also time reads with an empty page cache.")
    ] = True,
    models: Annotated[
        bool,
        typer.Option(
            "--models/--no-models", help="Also time training steps of the paper's models."
        ),
    ] = True,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder for the synthetic datasets (default: a temporary one)."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Compare delivering a batch to all ranks by duplicate reads, a broadcast or a shared ring.

    Examples:

        hpcsamp bench feed --like cifar10 --ranks 2

        hpcsamp bench feed --like era5 --no-cold --no-models --json feed.json
    """
    from hpcsamp.bench.feed import BATCH, LIKES, FeedCase, hidden, made_up, measure
    from hpcsamp.bench.launch import launch
    from hpcsamp.launcher import one_of_several

    if not one_of_several():
        arguments = ["bench", "feed", "--like", like, "--batch", str(batch)]
        arguments += ["--repeat", str(repeat)]
        arguments += ["--collective" if collective else "--no-collective"]
        arguments += ["--cold" if cold else "--no-cold", "--models" if models else "--no-models"]
        arguments += ["--data", str(data)] if data else []
        arguments += ["--json", str(json_file)] if json_file else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    from hpcsamp.grid import init

    topology = init("world", device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = topology.world.bcast(str(data or scratch))
        results: dict[str, Any] = {"ranks": topology.size, "cases": [], "models": []}
        for name in LIKES if like == "both" else (like,):
            dataset = made_up(name, Path(folder), topology)
            size = batch or BATCH[name]
            for shuffle in ("none", "global"):
                for warm in (True, False) if cold else (True,):
                    case = FeedCase(name, shuffle, warm, size)
                    found = measure(case, dataset, topology, repeat, collective)
                    if warm and shuffle == "global":
                        found["hidden"] = hidden(found, dataset, topology)
                    results["cases"].append(found)
        if models:
            from hpcsamp.bench.feed_models import waits

            results["models"] = waits(Path(folder), topology)
        topology.world.Barrier()
    if topology.is_root:
        report(results, json_file)


def report(results: dict[str, Any], json_file: Path | None) -> None:
    """Print the results as tables and write them as JSON."""
    from hpcsamp.cli.output import show, write_json

    for case in results["cases"]:
        rows = [
            [
                name,
                f"{1e3 * c['seconds']:.3f}",
                f"{c['seconds_ratio']:.2f}",
                f"{1e3 * c['cpu']:.3f}",
                f"{c['cpu_ratio']:.2f}",
                f"{c['bytes_per_batch_byte']:.3f}",
                f"{c['calls']:.0f}",
            ]
            for name, c in case["feeders"].items()
        ]
        show(
            f"{case['case']}: {case['batch']} items, {case['batch_bytes'] / 1e6:.2f} MB per step, "
            f"{results['ranks']} ranks; ratios to the fastest duplicate read",
            ["feeder", "ms per step", "ratio", "CPU ms", "ratio", "bytes read", "read calls"],
            rows,
        )
        for h in case.get("hidden", []):
            typer.echo(
                f"  with {1e3 * h['compute']:.2f} ms of compute per step: {h['hidden']:.1%} of "
                f"the data loading is hidden, the loop waits {h['waited']:.1%} of the time"
            )
    if results["models"]:
        show(
            "data loading while training",
            ["model", "ms per step", "waiting for data"],
            [
                [m["model"], f"{1e3 * m['step_seconds']:.1f}", f"{m['waited']:.2%}"]
                for m in results["models"]
            ],
        )
    if json_file:
        write_json(json_file, results)
