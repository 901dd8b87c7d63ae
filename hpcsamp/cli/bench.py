"""``hpcsamp bench``: measured experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.bench.feed import feed
from hpcsamp.cli.bench_dropout import dropout
from hpcsamp.cli.calibrate import calibrate

app = typer.Typer(no_args_is_help=True, help="Measure this machine, against real baselines.")
app.command()(feed)
app.command()(dropout)
app.command()(calibrate)


@app.command()
def step(
    model: Annotated[str, typer.Option(help="vit or mlp, at the paper's sizes.")] = "vit",
    samples: Annotated[int, typer.Option(min=1, help="S, weight samples.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Items.")] = 32,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks to start, if mpirun did not.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 5,
    loss: Annotated[str, typer.Option(help="Data loss.")] = "expected_nll",
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Run torch_blue, too.")
    ] = True,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory at S and at 1, too.")
    ] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here.")] = None,
) -> None:
    """Time a training step: against S plain passes, on all ranks against one, against torch_blue.

    One thread a rank; the variants take turns in one run. Starts its own ranks unless mpirun did.
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.bench.step import SHAPES
    from hpcsamp.errors import UsageError
    from hpcsamp.runtime import under_launcher

    if model not in SHAPES:
        raise UsageError(f"--model {model!r}: there is {', '.join(SHAPES)}")
    if samples < ranks and not under_launcher():
        raise UsageError(f"--samples {samples} cannot be split over --ranks {ranks}")
    if not under_launcher():
        arguments = ["bench", "step", "--model", model, "--samples", str(samples)]
        arguments += ["--batch", str(batch), "--repeat", str(repeat), "--loss", loss]
        arguments += ["--baseline" if baseline else "--no-baseline"]
        arguments += ["--memory" if memory else "--no-memory"]
        arguments += ["--json", str(json_file)] if json_file else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    _measured_step(model, samples, batch, repeat, loss, baseline, memory, json_file)


@app.command()
def exactness(
    samples: Annotated[int, typer.Option(min=2, help="S, weight samples.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Items.")] = 8,
    std: Annotated[
        float, typer.Option(min=1e-6, help="Posterior standard deviation of the weights.")
    ] = 0.05,
    model: Annotated[str, typer.Option(help="vit, mlp or both.")] = "both",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here.")] = None,
) -> None:
    """How far loss.exact = false is off as the number of ranks grows, for each loss.

    Relative difference of the data term's gradient with respect to the parameters. The ranks of the
    job share the work; for as many, the difference is measured in real steps, too.
    """
    from hpcsamp import choose
    from hpcsamp.bench.exactness import LOSSES, Work, compare
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError
    from hpcsamp.topology import init, share_samples

    if model not in (*LOSSES, "both"):
        raise UsageError(f"--model {model!r}: there is {', '.join(LOSSES)}, both")
    topology = init("world", device="cpu")
    share_samples(samples, topology.grid, topology.sample_rank)
    collectives = choose(topology, "mpi")
    found = [
        compare(Work(name, samples, batch, std), loss, collectives)
        for name in (LOSSES if model == "both" else [model])
        for loss in LOSSES[name]
    ]
    splits = found[0]["splits"]

    def short(difference: float | None) -> str | None:
        return None if difference is None else f"{difference:.1e}"

    if topology.is_root:
        show(
            f"gradient of loss.exact = false, relative difference from the sequential one; "
            f"S = {samples}, batch {batch}, weight std {std:g}",
            ["model", "loss", *(f"P = {p}" for p in splits), f"{topology.size} real ranks"],
            [
                [
                    row["model"],
                    row["loss"],
                    *map(short, [*row["splits"].values(), row["measured"]]),
                ]
                for row in found
            ],
            json_file=json_file,
            data={"samples": samples, "batch": batch, "std": std, "losses": found},
        )


@app.command()
def reference(
    seeds: Annotated[int, typer.Option(min=1, help="Splits and initial weights, from seed 0.")] = 5,
    sets: Annotated[
        list[str] | None, typer.Option("--data", help="One of the sets; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--model", help="One of the models; may be repeated.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks to start, if mpirun did not.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here.")] = None,
) -> None:
    """Held-out likelihood of the methods beside scikit-learn's models, on its three small sets.

    Same splits for all; the ranks of the job share the fits out, one thread each. Starts its own
    ranks unless mpirun did.
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.bench.reference import SETS, models_of
    from hpcsamp.config import suggest
    from hpcsamp.errors import UsageError
    from hpcsamp.runtime import under_launcher

    chosen, models = sets or list(SETS), only or []
    for option, names, known in (
        ("--data", chosen, list(SETS)),
        ("--model", models, sorted({m for name in SETS for m in models_of(name)})),
    ):
        for name in names:
            if name not in known:
                raise UsageError(
                    f"{option} {name!r}{suggest(name, known)}; there is {', '.join(known)}"
                )
    if ranks > 1 and not under_launcher():
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
    from hpcsamp.topology import init, together

    topology = init("world", device="cpu")
    torch.set_num_threads(1)
    todo = [f for f in fits(sets, list(range(seeds))) if not only or f.model in only]
    mine: dict[Fit, dict[str, float]] = {}
    with together(topology.world):
        for fit in todo[topology.rank :: topology.size]:
            mine[fit] = fit.run()
    every = topology.world.allgather(mine)
    if topology.is_root:
        found = {fit: part[fit] for fit in todo for part in every if fit in part}
        rows = table(found)

        def said(row: dict[str, Any], metric: str, digits: int) -> str | None:
            value = row.get(metric)
            return value and f"{value['mean']:.{digits}f} +- {value['std']:.{digits}f}"

        show(
            f"test items (20 %), {seeds} splits and seeds, mean +- standard deviation over them",
            ["set", "model", "NLL (nats an item)", "RMSE", "accuracy", "seconds"],
            [
                [
                    row["set"],
                    row["model"],
                    said(row, "nll", 3),
                    said(row, "rmse", 2),
                    said(row, "accuracy", 3),
                    f"{row['seconds']['mean']:.1f}",
                ]
                for row in rows
            ],
            json_file=json_file,
            data={"seeds": seeds, "rows": rows},
        )


def _measured_step(
    model: str,
    samples: int,
    batch: int,
    repeat: int,
    loss: str,
    baseline: bool,
    memory: bool,
    json_file: Path | None,
) -> None:
    from hpcsamp.bench.launch import peak_rss_mb
    from hpcsamp.bench.step import Work, compare, ratio, wait_for
    from hpcsamp.cli.output import show
    from hpcsamp.topology import init

    topology = init("world", device="cpu")
    found = compare(Work(model, samples, batch, loss), topology, repeat, baseline)
    if topology.is_root:
        rows = []
        for label, above, below in (
            (f"1 rank / {samples} plain passes", "one rank", "plain"),
            (f"speed-up of {topology.size} ranks over 1", "one rank", "all ranks"),
            ("torch_blue / 1 rank", "torch_blue", "one rank"),
        ):
            r = ratio(found, above, below)
            if r is not None:
                found[label] = r
                rows.append([label, *(f"{r[k]:.3f}" for k in ("median", "min", "max"))])
        if memory:
            peaks = {}
            for s in (1, samples):
                code = (
                    "from hpcsamp.bench.step import one_step_for_memory as run; "
                    f"run({model!r}, {s}, {batch}, {loss!r}, 'auto')"
                )
                peaks[s] = peak_rss_mb(["-c", code], {"OMP_NUM_THREADS": "1"})
            found["peak_rss_mb"] = peaks
            label = f"peak memory at S = {samples} / S = 1 ({peaks[1]:.0f} MiB)"
            rows.append([label, f"{peaks[samples] / peaks[1]:.3f}", "", ""])
        times = ", ".join(f"{k} {v:.3f} s" for k, v in found["seconds"].items())
        show(
            f"{model}, S = {samples}, batch {batch}, {found['threads']} thread a rank; {times}",
            ["ratio", "median", "min", "max"],
            rows,
            json_file=json_file,
            data=found,
        )
    wait_for(topology.world.Ibarrier())
