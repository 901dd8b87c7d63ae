"""``hpcsamp bench baselines``: beside what people would use instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def baselines(
    workload: Annotated[
        str,
        typer.Option(
            help="vit-cifar10 (the default), mlp-entsoe or vit-digits; against numpyro: networks "
            "by their widths, with commas."
        ),
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="Baselines, with commas (default: those of the method; see --list); or numpyro, "
            "by itself."
        ),
    ] = "",
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of what runs on several (default: 2).")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The figure's sizes instead of those for two cores.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds, after one.")] = 5,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a round.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="S.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Items of a step.")] = None,
    bfloat16: Annotated[
        bool | None,
        typer.Option(
            "--bfloat16/--no-bfloat16",
            help="hpcsamp in bfloat16, too, where it may (default: yes).",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key; repeatable.")
    ] = None,
    data: Annotated[str, typer.Option(help='Dataset folder, or "synthetic" (the default).')] = "",
    listed: Annotated[bool, typer.Option("--list", help="Say which baselines there are.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the records.")] = None,
) -> None:
    """Time whole training steps of hpcsamp and of what people would use instead, in turns.

    Same network, batches and optimiser; one thread a rank; feed and augmentation are in the step,
    torch's DataLoader and torchvision's for the baselines. Peak memory is that of the largest rank.

    Against numpyro small networks are timed on one core, in an environment for NumPyro that is
    built in HPCSAMP_CACHE the first time.
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
        show("", ["baseline", "what"], rows)
        return
    names = [name.strip() for name in against.split(",") if name.strip()]
    if PEER in names:
        if names != [PEER]:
            raise UsageError(
                f"--against {against}: numpyro is measured by itself, on networks of its own"
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
            raise UsageError(f"--against {name}: there is {', '.join(known)}{suggest(name, known)}")
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
        f"{experiment.model}, S = {size.samples}, batch {size.batch}: whole steps with feed, "
        f"{first['threads']} thread a rank, {first['machine']['cpu']}",
        ["variant", "ranks", "ms a step", "least", "most", "MiB a rank"],
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
        f"ratios of times, medians of {rounds} rounds; hpcsamp's peak memory over theirs",
        ["what", "ratio", "least", "most", "memory"],
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
