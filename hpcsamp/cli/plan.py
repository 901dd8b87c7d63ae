"""``hpcsamp plan``: predict time, memory and speed-up of a run on other numbers of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits
from hpcsamp.cli.output import Cell, show
from hpcsamp.names import Growth

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcsamp.config import RunConfig
    from hpcsamp.planning.grid_choice import CandidateGrid
    from hpcsamp.planning.machine import Machine
    from hpcsamp.planning.model import NodeLayout
    from hpcsamp.planning.rates import Rates
    from hpcsamp.planning.workload import Workload
    from hpcsamp.run.shapes import DataShapes

MOST_SIMULATED = 100_000


def plan(
    config: Annotated[
        str | None,
        typer.Argument(help="A TOML file, or the name of a configuration or a model."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The configuration or model, in place of the argument.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Weight samples S (default: method.samples).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Items per step over all data groups.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 1,
    per_node: Annotated[
        int | None,
        typer.Option(
            "--ranks-per-node",
            "--gpus-per-node",
            min=1,
            help="Ranks per node (default: the setting of the site).",
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="A known site, or a TOML file (default: horeka).")
    ] = None,
    mode: Annotated[
        Growth,
        typer.Option(
            help="Keep S and batch fixed, or let the batch or S grow with the number of ranks."
        ),
    ] = "fixed",
    preset: Annotated[str | None, typer.Option(help="One of the configuration's presets.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Dataset folder (default: data.path or the synthetic set).")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of constants measured by hpcsamp bench calibrate.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of grids to show.")] = 8,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also show the fastest grid on 1, 2, 4 ... nodes.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the scaling curve to this file (.svg, .png, .pdf).")
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Also simulate steps rank by rank, with random delays."),
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            help="File or folder of measured steps: fit the constants to some, report the error "
            "on the rest."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the prediction to this JSON file.")
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Predict time, memory and speed-up on each grid of ranks; show the fastest and its bottleneck.

    The command trains nothing. Predictions use the published figures of a site or, with
    --calibration, the constants measured on a machine.

    Examples:

        hpcsamp plan vit-cifar10 --nodes 8 --ranks-per-node 4 --curve

        hpcsamp plan mixer-era5 --samples 16 --site lumi --nodes 32 --json plan.json
    """
    if check is not None:
        _check(check, json_file)
        return
    from hpcsamp.errors import UsageError
    from hpcsamp.planning import grid_choice, machine

    name = model or config
    if name is None:
        raise UsageError("nothing to plan: name a configuration or a model, e.g. vit-cifar10")
    if model and config:
        raise UsageError(
            f"both {config} and --model {model} name a configuration: use only one of them"
        )
    place = machine.load(site or ("local" if calibration else "horeka"))
    run, shapes = _run(name, samples, batch, preset, settings, data)
    each = per_node or place.per_node
    ranks = nodes * each
    work, place, rates = _rates(run, shapes, ranks, place, calibration)
    memory = _memory(run, shapes)
    ranked = grid_choice.splits(work, ranks, each, place, rates, mode, memory)
    result = {
        "model": name,
        "site": place.name,
        "device": place.device.name,
        "origin": rates.origin,
        "nodes": nodes,
        "ranks": ranks,
        "samples": ranked[0].prediction.work.samples,
        "batch": ranked[0].prediction.work.batch,
        "mode": mode,
        "weights": work.weights,
        "trained": work.trained,
        "flops_per_item": work.counts.flops[1],
        "splits": [_row(s) for s in ranked],
        "best": _row(ranked[0]),
        "verdict": grid_choice.verdict(ranked),
        "limits": grid_choice.limits(ranked[0]),
    }
    _splits(result, ranked[:top], len(ranked))
    typer.echo(result["verdict"])
    if work.leads > 1:
        result["rollout"] = _stages(run, shapes, ranked[0], place, rates)
    if simulate:
        result["simulated"] = _simulate(ranked[0], place)
    if curve or picture is not None:
        result["curve"] = _curve(work, nodes, each, place, rates, mode, memory)
    if picture is not None:
        from hpcsamp.planning.picture import draw

        draw(result, picture)
    if json_file is not None:
        from hpcsamp.cli.output import write_json

        write_json(json_file, result)


def _run(
    name: str,
    samples: int | None,
    batch: int | None,
    preset: str | None,
    settings: list[str] | None,
    data: str | None,
) -> tuple[RunConfig, DataShapes]:
    from hpcsamp import config as configuration
    from hpcsamp.planning.workload import configuration_of
    from hpcsamp.run.shapes import DataShapes

    changes = list(settings or ())
    changes += [f"method.samples={samples}"] if samples else []
    changes += [f"data.batch={batch}"] if batch else []
    run = configuration.load(configuration_of(name), changes, preset=preset)
    return run, DataShapes.described(run, data)


def _rates(
    run: RunConfig, shapes: DataShapes, ranks: int, place: Machine, calibration: Path | None
) -> tuple[Workload, Machine, Rates]:
    from hpcsamp.planning import calibration as measured
    from hpcsamp.planning.rates import estimated
    from hpcsamp.planning.workload import Workload

    work = Workload.on(run, shapes, ranks)
    if calibration is None:
        return work, place, estimated(place, work)
    found = measured.load(calibration)
    if place.name == "local":
        other = measured.differences(found, measured.fingerprint())
        if other:
            typer.echo(
                f"hpcsamp: warning: {calibration} was measured on another machine: {other}",
                err=True,
            )
    return work, found.machine_of(place), found.rates(place, work)


def _memory(run: RunConfig, shapes: DataShapes) -> Callable[[NodeLayout, Workload], float]:
    """Return a function for the bytes per rank on a grid, counted as ``hpcsamp models`` does."""
    from functools import cache

    from hpcsamp import config as configuration
    from hpcsamp.planning import memory, parted

    def of(layout: NodeLayout, work: Workload) -> float:
        return parts(layout.sample_size, layout.data_size, layout.model_size, layout.per_node,
                     work.samples, work.batch)  # fmt: skip

    @cache
    def parts(p: int, d: int, m: int, per_node: int, samples: int, batch: int) -> float:
        table = run.model_dump(exclude_none=True)
        table["method"]["samples"], table["data"]["batch"] = samples, batch
        changed = configuration.check(table)
        grid = memory.Grid(p, d, per_node)
        found = memory.estimate(parted.blank(changed, shapes, p, m), grid, rough=True)
        return float(sum(part.bytes for part in found))

    return of


def _stages(
    run: RunConfig, shapes: DataShapes, best: CandidateGrid, place: Machine, rates: Rates
) -> list[dict[str, Any]]:
    """Predict the fastest grid at each stage of a curriculum of rollouts, and show the stages."""
    from hpcsamp import config as configuration
    from hpcsamp.planning.model import predict

    given, layout, work = run.training.rollout, best.prediction.layout, best.prediction.work
    found = []
    for steps, epochs in [(given, run.training.epochs)] if isinstance(given, int) else given:
        table = run.model_dump(exclude_none=True)
        table["training"]["rollout"] = steps
        stage = configuration.check(table)
        p = predict(work.scaled(leads=steps), layout, place, rates.on(work))
        found.append({
            "steps": steps,
            "epochs": epochs,
            "passes": p.work.passes,
            "seconds_per_step": p.seconds,
            "memory_bytes": _memory(stage, shapes)(layout, work),
        })  # fmt: skip
    show(
        f"training.rollout on D x P = {layout}; above: its most steps",
        ["steps of the rollout", "epochs", "cost in passes of one step", "ms per step",
         "GB per rank"],
        [
            [q["steps"], q["epochs"], f"{q['passes']:.3f}", f"{1e3 * q['seconds_per_step']:.4g}",
             f"{q['memory_bytes'] / 1e9:.2f}"]
            for q in found
        ],
    )  # fmt: skip
    return found


def _row(split: CandidateGrid) -> dict[str, Any]:
    p = split.prediction
    return {
        "data_groups": p.layout.data_size,
        "sample_ranks": p.layout.sample_size,
        "model_ranks": p.layout.model_size,
        "samples_per_rank": p.samples,
        "items_per_rank": p.items,
        "seconds_per_step": p.seconds,
        "phases": {phase.name: phase.seconds for phase in p.phases},
        "ways": {phase.name: phase.way for phase in p.phases if phase.way},
        "reading_seconds": p.reading,
        "items_per_second": p.items_per_second,
        "samples_per_second": p.samples_per_second,
        "speed_up": split.speed_up,
        "efficiency": split.efficiency,
        "memory_bytes": split.memory,
        "fits": split.fits,
    }


def _splits(result: dict[str, Any], ranked: list[CandidateGrid], number: int) -> None:
    rows: list[list[Cell]] = []
    parts = any(s.prediction.layout.model_size > 1 for s in ranked)
    exchanges = ("model exchange",) * parts + ("statistics", "agreement", "gradient exchange")
    after = ("optimiser", "waiting")
    for s in ranked:
        p = s.prediction
        compute = sum(p.phase(n) for n in ("augment", "draw", "forward+backward", "penalty"))
        shares = [p.phase("feed"), compute, *map(p.phase, exchanges), *map(p.phase, after)]
        rows.append(
            [
                str(p.layout), p.samples, p.items, *(f"{1e3 * v:.3g}" for v in shares),
                f"{1e3 * p.seconds:.4g}", f"{p.items_per_second:.4g}",
                f"{p.samples_per_second:.4g}", f"{s.speed_up:.4g}", f"{s.efficiency:.3f}",
                f"{(s.memory or 0) / 1e9:.2f}" + ("" if s.fits else " too much"),
            ]
        )  # fmt: skip
    title = (
        f"{result['model']} on {result['nodes']} nodes of {result['site']} ({result['device']}), "
        f"{result['ranks']} ranks, S = {result['samples']}, batch {result['batch']}, "
        f"{result['mode']}; compute {result['origin']}; milliseconds per step"
    )
    columns = [
        "D x P" + " x M" * parts, "samples", "items", "feed", "compute", *("model",) * parts,
        "statistics", "agreement", "gradient", *after, "step", "items/s", "samples/s", "speed-up",
        "efficiency", "GB per rank",
    ]  # fmt: skip
    show(title, columns, rows)
    if number > len(ranked):
        typer.echo(f"{number - len(ranked)} more grids: --top {number} shows them")


def _simulate(split: CandidateGrid, place: Machine) -> dict[str, float]:
    from hpcsamp.errors import UsageError
    from hpcsamp.planning.simulate import simulate

    ranks = split.prediction.layout.ranks
    if ranks > MOST_SIMULATED:
        raise UsageError(f"--simulate takes at most {MOST_SIMULATED} ranks, not {ranks}")
    found = simulate(split.prediction, place)
    low, high = min(found.seconds), max(found.seconds)
    typer.echo(
        f"simulated {len(found.seconds)} steps of {ranks} ranks: {1e3 * found.mean:.4g} ms per "
        f"step ({1e3 * low:.4g} to {1e3 * high:.4g}; formula "
        f"{1e3 * split.prediction.seconds:.4g}), "
        f"{found.waiting:.1%} waiting for ranks, {found.starved:.1%} waiting for a batch"
    )
    return {
        "seconds_per_step": found.mean,
        "waiting": found.waiting,
        "starved": found.starved,
    }


def _curve(
    work: Workload, nodes: int, each: int, place: Machine, rates: Rates, mode: Any,
    memory: Callable[[NodeLayout, Workload], float],
) -> list[dict[str, Any]]:  # fmt: skip
    from hpcsamp.errors import UsageError
    from hpcsamp.planning import grid_choice

    points = []
    parts = len(work.model_sizes) > 1
    numbers = sorted({*(1 << i for i in range(nodes.bit_length()) if 1 << i <= nodes), nodes})
    for n in numbers:
        try:
            best = grid_choice.splits(work, n * each, each, place, rates, mode, memory)[0]
        except UsageError:
            continue  # no grid has this number of ranks
        grid = str(best.prediction.layout)
        points.append({"nodes": n, "ranks": n * each, "grid": grid, **_row(best)})
    show(
        "fastest grid for each number of nodes, among those that fit into memory if any does",
        ["nodes", "ranks", "D x P" + " x M" * parts, "ms per step", "items/s", "speed-up",
         "efficiency", "GB per rank", ""],
        [
            [
                q["nodes"], q["ranks"], q["grid"],
                f"{1e3 * q['seconds_per_step']:.4g}", f"{q['items_per_second']:.4g}",
                f"{q['speed_up']:.4g}", f"{q['efficiency']:.3f}",
                f"{q['memory_bytes'] / 1e9:.2f}" + ("" if q["fits"] else " too much"),
                "#" * round(40 * min(q["efficiency"], 1.0)),
            ]
            for q in points
        ],
    )  # fmt: skip
    return points


def _check(path: Path, json_file: Path | None) -> None:
    from hpcsamp.planning import fit

    fitted, held = fit.hold_back(fit.read(path))
    found = fit.fit(fitted)
    predicted = [found.predict(p) for p in held]
    error = fit.errors(predicted, held)
    own = fit.errors([found.predict(p) for p in fitted], fitted)
    show(
        f"held-out points of {path}; constants were fitted to {len(fitted)} other points",
        ["model", "S", "batch", "D x P x M", "measured ms", "predicted ms", "error %"],
        [
            [
                p.model, p.samples, p.batch, f"{p.data_size} x {p.sample_size} x {p.model_size}",
                f"{1e3 * p.seconds:.3f}", f"{1e3 * t:.3f}", f"{100 * (t / p.seconds - 1):+.1f}",
            ]
            for p, t in zip(held, predicted, strict=True)
        ],
        json_file,
        {"held_back": error, "fitted": own, "constants": found.as_dict()},
    )  # fmt: skip
    typer.echo(
        f"error on {error['points']} held-out points: median {error['median']:.1%}, largest "
        f"{error['max']:.1%} (fitted points: median {own['median']:.1%}); compute takes "
        f"{found.crowd:.2f} times as long when all ranks are busy"
    )
