"""``hpcsamp models``: list the networks, or report a run's parameter count and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcsamp.cli.output import show
from hpcsamp.errors import UsageError

if TYPE_CHECKING:
    from hpcsamp.config import RunConfig
    from hpcsamp.models.catalogue import Entry
    from hpcsamp.planning.memory import Grid
    from hpcsamp.run.shapes import DataShapes


def models(
    config: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file or the name of a configuration, to count its parameters and memory; "
            "or a Python module, e.g. torchvision.models or transformers:ViT*, to list its "
            "networks. "
            "Without an argument the registered networks are listed."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="One of the configuration's presets.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Dataset folder (default: data.path or the synthetic set).")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of ranks, D x P x M, to count for; none is started (default: one "
            "sample rank).",
        ),
    ] = None,
    groups: Annotated[
        int, typer.Option(min=1, help="Number of data groups D, among which the ranks are divided.")
    ] = 1,
    per_node: Annotated[
        int | None,
        typer.Option(
            "--ranks-per-node",
            "--per-node",
            min=1,
            help="Ranks per node (default: one sample group).",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """List the networks, or report the parameters of a run and the memory of a training step.

    The command trains nothing and allocates no large arrays.

    Examples:

        hpcsamp models torchvision.models

        hpcsamp models vit-cifar10 --ranks 8 --groups 2
    """
    if config is None:
        _list(json_file)
        return
    if _is_module(config):
        from hpcsamp.models import catalogue

        _show(catalogue.within(config), json_file)
        return
    from hpcsamp import config as configuration
    from hpcsamp.grid import check_sizes
    from hpcsamp.planning import memory
    from hpcsamp.run.shapes import DataShapes

    run = configuration.load(config, settings or (), preset=preset)
    m = run.parallel.model
    ranks = ranks or groups * m
    if ranks % groups:
        raise UsageError(f"--groups {groups} does not divide --ranks {ranks}")
    each = ranks // groups
    check_sizes(each, each, "world", m)
    grid = memory.Grid(each // m, groups, per_node or each)
    _report(run, DataShapes.described(run, data), grid, json_file)


def _is_module(name: str) -> bool:
    """Whether a name belongs to a Python module and not to a configuration."""
    from importlib.util import find_spec

    from hpcsamp.config import exists, named_configs

    if name in named_configs() or exists(Path(name)):
        return False
    path = name.partition(":")[0]
    try:
        return all(part.isidentifier() for part in path.split(".")) and find_spec(path) is not None
    except (ImportError, ValueError):
        return ":" in name


def _list(json_file: Path | None) -> None:
    from hpcsamp import config as configuration
    from hpcsamp.models import catalogue

    _show(catalogue.registered(), json_file)
    typer.echo(f"configurations: {', '.join(configuration.named_configs())}")
    typer.echo("use any other network by its import path, e.g.")
    width = max(len(name) for name, _ in catalogue.USUAL)
    for name, about in catalogue.USUAL:
        typer.echo(f"    {name:{width}}  {about}")
    typer.echo("hpcsamp models MODULE lists the networks of a module, e.g. torchvision.models")


def _show(entries: Sequence[Entry], json_file: Path | None) -> None:
    rows = [[e.name, e.about, ", ".join(e.arguments)] for e in entries]
    show("", ["model", "description", "keys of [model]"], rows, json_file)


def _report(run: RunConfig, shapes: DataShapes, grid: Grid, json_file: Path | None) -> None:
    from hpcsamp.planning import memory, parted
    from hpcsamp.planning.node_memory import available

    m = run.parallel.model
    made = parted.blank(run, shapes, grid.sample_size, m)
    whole = made if m == 1 else parted.blank(run, shapes, grid.sample_size)
    network, _ = parted.network(run, shapes)
    weights = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in whole.method.parameters())
    shape = shapes.told(" x ")
    typer.echo(f"{run.model.name}: {shape} in, {made.outputs:,} outputs")
    typer.echo(f"parameters of the network: {weights:,}")
    what = "means, standard deviations, deterministic weights" if trained > weights else "trained"
    typer.echo(f"parameters under {run.method.name} ({what}): {trained:,}")
    if m > 1:
        held = sum(p.numel() for p in made.method.parameters())
        typer.echo(f"of these on one of {m} model ranks, at most: {held:,}")
    parts = memory.estimate(made, grid)
    total = sum(p.bytes for p in parts)
    rows: list[list[str | int | float | bool | None]] = [
        [p.name, f"{p.bytes / 1e9:.3f}", p.knob] for p in parts
    ]
    rows += [
        ["one rank", f"{total / 1e9:.3f}", ""],
        [f"one node of {grid.per_node} ranks", f"{total * grid.per_node / 1e9:.3f}", ""],
        ["available on this machine", f"{available() / 1e9:.3f}", ""],
    ]
    title = (
        f"Memory of a training step: S = {run.method.samples} on P = {grid.sample_size} ranks"
        + f" of M = {m} model ranks" * (m > 1)
        + f", batch {run.data.batch} on D = {grid.data_size}, {run.training.precision}"
    )
    show(
        title,
        ["part", "GB per rank", "reduced by"],
        rows,
        json_file,
        {
            "weights": weights,
            "trained": trained,
            "parts": [{"name": p.name, "bytes": p.bytes, "knob": p.knob} for p in parts],
            "bytes_per_rank": total,
            "bytes_per_node": total * grid.per_node,
        },
    )
