"""``hpcsamp bench baselines``: compare training steps with those of other libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import RANKS


def baselines(
    workload: Annotated[
        str,
        typer.Option(
            help="vit-cifar10 (the default), mlp-entsoe or vit-digits; with --against numpyro: "
            "networks, named by their widths and separated by commas."
        ),
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="Baselines separated by commas (default: those of the method, see --list), or "
            "numpyro alone."
        ),
    ] = "",
    ranks: Annotated[
        int | None, typer.Option(min=1, help=f"{RANKS}, for the parallel variants (default: 2).")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Use the paper's sizes instead of those for two cores.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one warm-up round.")] = 5,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps per round.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Weight samples S.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Items per step.")] = None,
    bfloat16: Annotated[
        bool | None,
        typer.Option(
            "--bfloat16/--no-bfloat16",
            help="Also time hpcsamp in bfloat16 if the machine supports it (default: yes).",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    data: Annotated[str, typer.Option(help='Dataset folder, or "synthetic" (the default).')] = "",
    listed: Annotated[bool, typer.Option("--list", help="List the baselines and exit.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write the records to.")] = None,
) -> None:
    """Time whole training steps of hpcsamp and of its baselines, in alternating rounds.

    All variants use the same network, batches and optimiser, and one thread per rank. A step
    includes reading and augmenting the batch; the baselines use torch's DataLoader and torchvision
    for it. Peak memory is that of the rank that uses most.

    With --against numpyro, small networks are timed on one core. The environment for NumPyro is
    built in HPCSAMP_CACHE on first use.

    Examples:

        hpcsamp bench baselines --workload vit-digits --ranks 2 --rounds 3

        hpcsamp bench baselines --against numpyro --out records
    """
    from hpcsamp import config as configuration
    from hpcsamp.bench import records, versus
    from hpcsamp.bench.baselines import BASELINES, about
    from hpcsamp.bench.peer.compare import PEER
    from hpcsamp.bench.scaling import Experiment
    from hpcsamp.bench.workloads import find
    from hpcsamp.cli.bench_peer import numpyro
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError
    from hpcsamp.spelling import suggest

    if listed:
        rows = [[name, about(name)] for name in BASELINES]
        rows.append([PEER, "NumPyro's SVI on one core, with networks of its own."])
        show("", ["baseline", "description"], rows)
        return
    names = [name.strip() for name in against.split(",") if name.strip()]
    if PEER in names:
        if names != [PEER]:
            raise UsageError(
                f"--against {against}: numpyro is measured alone, with networks of its own"
            )
        unused = {
            "full": full,
            "ranks": ranks is not None,
            "bfloat16": bool(bfloat16),
            "data": bool(data),
        }
        numpyro(workload, samples, batch, rounds, steps, settings or (), out, unused)
        return
    ranks, workload = ranks or 2, workload or "vit-cifar10"
    found = find(workload)
    size = found.full if full else found.small
    size = replace(size, samples=samples or size.samples, batch=batch or size.batch)
    size = replace(size, steps=steps or size.steps or 1)
    method = configuration.load(found.config, settings or (), preset=size.preset).method.name
    names = names or list(versus.USUAL.get(method, ("plain",)))
    for name in names:
        if name not in BASELINES:
            known = [*BASELINES, PEER]
            raise UsageError(
                f"--against {name}: choose from {', '.join(known)}{suggest(name, known)}"
            )
    if size.samples < ranks:
        raise UsageError(f"--samples {size.samples} cannot be split over --ranks {ranks}")
    experiment = Experiment(
        workload, found, size, "fixed", tuple(settings or ()), data or "synthetic"
    )
    chosen = versus.variants(
        experiment, ranks, names, bfloat16 is not False and versus.has_bfloat16()
    )
    measured = versus.measure(experiment, chosen, rounds)
    first = measured[0]
    show(
        f"{experiment.model}, S = {size.samples}, batch {size.batch}: whole steps including data "
        f"loading, "
        f"{first['threads']} thread per rank, {first['machine']['cpu']}",
        ["variant", "ranks", "ms per step", "min", "max", "MiB per rank"],
        [
            [
                r["label"],
                r["world_size"],
                *(f"{1e3 * t:.4g}" for t in (r["seconds_per_step"], *r["spread"])),
                f"{max(r['peak_rss_mb']):.0f}",
            ]
            for r in measured
        ],
    )
    show(
        f"ratios of times, medians of {rounds} rounds; memory: hpcsamp's peak over the baseline's",
        ["variants", "ratio", "min", "max", "memory"],
        [
            [
                row["what"],
                *(f"{row[k]:.3f}" for k in ("ratio", "min", "max")),
                None if row["memory"] is None else f"{row['memory']:.2f}",
            ]
            for row in versus.table(measured)
        ],
    )
    for r in measured:
        if r["label"] == versus.ALL and r["phases"]:
            spent = ", ".join(f"{k} {1e3 * v:.3g}" for k, v in r["phases"].items())
            typer.echo(f"{r['world_size']} ranks, ms by phase: {spent}")
    if out is not None:
        records.write(out / "baselines.jsonl", measured)
        typer.echo(f"records in {out / 'baselines.jsonl'}")
