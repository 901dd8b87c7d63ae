"""``hpcsamp bench step``: compare a training step with plain passes and torch_blue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import Ranks


def step(
    model: Annotated[
        str, typer.Option(help="vit or mlp in the paper's sizes, or package.module:Class.")
    ] = "vit",
    samples: Annotated[int, typer.Option(min=1, help="Weight samples S.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Items per step.")] = 32,
    ranks: Ranks = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 5,
    loss: Annotated[str, typer.Option(help="Data loss.")] = "expected_nll",
    method: Annotated[
        str,
        typer.Option(help="mean_field, flipout, local_reparameterisation or ivon."),
    ] = "mean_field",
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Also time torch_blue.")
    ] = True,
    compiled: Annotated[
        bool,
        typer.Option("--compile/--no-compile", help="Also time the step with training.compile."),
    ] = False,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory/--no-memory", help="Also measure peak memory with S samples and with one."
        ),
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Also record a few steps and write the timelines of the ranks to this folder."
        ),
    ] = None,
) -> None:
    """Time a training step on all ranks and on one, against S plain passes and torch_blue.

    Reading the batch is not included. Each rank uses one thread, and the variants alternate in one
    run. The command starts its own ranks unless it runs under mpirun.

    Examples:

        hpcsamp bench step --model mlp --ranks 2

        hpcsamp bench step --method ivon --samples 1 --ranks 1 --no-baseline --repeat 40
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.bench.step import SHAPES, TIMED
    from hpcsamp.errors import UsageError
    from hpcsamp.launcher import one_of_several
    from hpcsamp.names import MODELS
    from hpcsamp.spelling import suggest

    MODELS.find(model)
    if method not in TIMED:
        raise UsageError(
            f"--method {method!r}{suggest(method, TIMED)}; choose from {', '.join(TIMED)}"
        )
    baseline = baseline and model in SHAPES  # torch_blue does not support batch statistics
    if samples < ranks and not one_of_several():
        raise UsageError(f"--samples {samples} cannot be split over --ranks {ranks}")
    if not one_of_several():
        arguments = ["bench", "step", "--model", model, "--samples", str(samples)]
        arguments += ["--batch", str(batch), "--repeat", str(repeat), "--loss", loss]
        arguments += ["--method", method]
        arguments += ["--baseline" if baseline else "--no-baseline"]
        arguments += ["--compile"] if compiled else []
        arguments += ["--memory" if memory else "--no-memory"]
        arguments += ["--json", str(json_file)] if json_file else []
        arguments += ["--profile", str(profile)] if profile else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    _measured_step(
        model, samples, batch, repeat, loss, method, baseline, compiled, memory, json_file, profile
    )


def _measured_step(
    model: str,
    samples: int,
    batch: int,
    repeat: int,
    loss: str,
    method: str,
    baseline: bool,
    compiled: bool,
    memory: bool,
    json_file: Path | None,
    profile: Path | None,
) -> None:
    from hpcsamp.bench.launch import peak_rss_mb_of
    from hpcsamp.bench.step import StepWork, compare, ratio, wait_for
    from hpcsamp.cli.output import show
    from hpcsamp.cli.profile import show_profile
    from hpcsamp.grid import init
    from hpcsamp.training.timeline import Timeline

    topology = init("world", device="cpu")
    timeline = Timeline(topology) if profile else None
    work = StepWork(model, samples, batch, loss, method)
    found = compare(work, topology, repeat, baseline, timeline, compiled)
    if topology.is_root:
        rows = []
        for label, above, below in (
            (f"1 rank / {samples} plain passes", "one rank", "plain"),
            (f"1 rank / {samples} plain steps of Adam", "one rank", "plain Adam"),
            (
                f"{topology.size} ranks / plain passes on as many cores",
                "all ranks",
                "plain on all ranks",
            ),
            (f"speed-up of {topology.size} ranks over 1", "one rank", "all ranks"),
            ("torch_blue / 1 rank", "torch_blue", "one rank"),
            ("1 rank / 1 rank with training.compile", "one rank", "compiled"),
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
                    f"run({model!r}, {s}, {batch}, {loss!r}, {method!r}, 'auto')"
                )
                peaks[s] = peak_rss_mb_of(code, {"OMP_NUM_THREADS": "1"})
            found["peak_rss_mb"] = peaks
            label = f"peak memory at S = {samples} / S = 1 ({peaks[1]:.0f} MiB)"
            rows.append([label, f"{peaks[samples] / peaks[1]:.3f}", "", ""])
        times = ", ".join(f"{k} {v:.3f} s" for k, v in found["seconds"].items())
        show(
            f"{model}, {method}, S = {samples}, batch {batch}, {found['threads']} thread per rank; "
            f"{times}",
            ["ratio", "median", "min", "max"],
            rows,
            json_file=json_file,
            data=found,
        )
    wait_for(topology.world.Ibarrier())
    if timeline is not None and profile is not None:
        show_profile(timeline, profile)
