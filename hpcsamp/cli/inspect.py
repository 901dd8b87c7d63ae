"""``hpcsamp inspect DIR``: schema, statistics and checksums of a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits

if TYPE_CHECKING:
    from hpcsamp.data.manifest import Manifest


def inspect(
    folder: Annotated[Path, typer.Argument(help="Dataset folder, or a file of predictions.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and name each bad chunk.")
    ] = False,
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Write the same as JSON to this file.")
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Describe a dataset folder, or check a file of predictions.

    With --verify, read all of the folder (in parallel under mpirun).
    """
    from hpcsamp.cli.output import write_json
    from hpcsamp.errors import DataError
    from hpcsamp.grid import together
    from hpcsamp.runtime import install_excepthook, mpi

    install_excepthook()
    comm = mpi().COMM_WORLD
    if folder.is_file():
        _inspect_file(folder)
        return
    from hpcsamp.data import verify as checks
    from hpcsamp.data.manifest import read_manifest
    from hpcsamp.data.shard import check_header

    with together(comm):
        manifest = read_manifest(folder)
    told = summary(folder, manifest)
    if comm.Get_rank() == 0:
        tell(told)
    found = None
    if verify:
        found = checks.verify(folder, manifest, comm)
        told["verify"] = vars(found)
    else:
        with together(comm):
            for entry in manifest.shards[comm.Get_rank() :: comm.Get_size()]:
                check_header(folder, manifest, entry)
    if comm.Get_rank() == 0 and to_json:
        write_json(to_json, told)
    if found is None:
        return
    if comm.Get_rank() == 0:
        for line in found.bad:
            typer.echo(line)
        typer.echo(
            f"read {found.shards} shards, {found.chunks} chunks, {found.size / 1e6:,.1f} MB: "
            + (f"{len(found.bad)} bad" if found.bad else "all intact")
        )
    with together(comm):
        if found.bad:
            raise DataError(f"{folder}: {len(found.bad)} shards or chunks are bad")


def _inspect_file(path: Path) -> None:
    """Check the seal of a file of predictions and list its arrays."""
    from hpcsamp.sealing import hdf5

    with hdf5.opened(path) as f:
        for name, array in f.items():
            typer.echo(f"{name:16} {array.dtype.str:6} {array.shape}")
    typer.echo(f"{path} is what hpcsamp wrote")


def summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What ``--json`` writes."""
    return {
        "path": str(folder),
        "bytes": sum(s.size for s in manifest.shards),
        "shard_count": len(manifest.shards),
        **manifest.model_dump(exclude={"shards"}),
        "shards": [s.model_dump(exclude={"chunks"}) for s in manifest.shards],
    }


def tell(told: dict[str, Any]) -> None:
    """Lines and a table for people."""
    from hpcsamp.cli.output import show
    from hpcsamp.ingest.choice import listed

    kind = _of_targets(told)
    kind += ", inputs are ids" if told["inputs"] == "ids" else ""
    splits = ", ".join(f"{name} {count:,}" for name, count in told["splits"].items())
    lines = {
        "items": splits,
        "shards": f"{told['shard_count']}, {told['bytes'] / 1e6:,.1f} MB, schema "
        f"{told['schema_version']}, uid {told['uid']}",
        "source": ", ".join(
            f"{k}: {v}" for k, v in told["source"].items() if not isinstance(v, dict)
        ),
        "classes": listed(told.get("class_names") or []),
        "licence": told["licence"],
        "transforms": "; ".join(told["transforms"]),
        "coords": ", ".join(f"{k} [{v}]" if v else k for k, v in told["coords"].items()),
    }
    typer.echo(f"{told['name']} ({told['path']}): {kind}")
    for label, text in lines.items():
        if text:
            typer.echo(f"{label:10s} {text}")
    rows = []
    roles = _roles(told)
    for name, spec in told["arrays"].items():
        stats = told["stats"].get(name)
        values = [_span(stats[key]) if stats else "" for key in ("mean", "std", "min", "max")]
        chunk = f"{spec['items_per_chunk']} items"
        if spec["shape"] and spec["rows_per_chunk"] < spec["shape"][0]:
            chunk = f"{spec['rows_per_chunk']} rows of 1 item"
        if spec["slab"]:
            chunk = f"slab of {' x '.join(map(str, spec['slab']))} of 1 item"
        if spec["compression"]:
            chunk += f", {spec['compression']}"
        shape = " x ".join(map(str, spec["shape"])) or "number"
        rows.append([name, roles[name], shape, spec["dtype"], chunk, *values])
    show("", ["array", "is", "item", "type", "chunk", "mean", "std", "min", "max"], rows)
    for name, spec in told["arrays"].items():
        if spec["names"]:
            typer.echo(f"names of {name}: {listed(spec['names'])}")
    for name, spec in told["arrays"].items():
        if spec["units"]:
            typer.echo(f"units of {name}: {spec['units']}")


def _of_targets(told: dict[str, Any]) -> str:
    if not told["targets"]:
        return _of_target(told)
    return "; ".join(f"{name}: {_of_target(t)}" for name, t in told["targets"].items())


def _of_target(told: dict[str, Any]) -> str:
    kind = told["task"] + (f", {told['classes']} classes" if told["classes"] else "")
    missing = told["missing"]
    return str(kind) + ("" if missing is None else f", missing values are {missing}")


def _roles(told: dict[str, Any]) -> dict[str, str]:
    """What each array is."""
    inputs = told["inputs"] if isinstance(told["inputs"], dict) else {"x": told["inputs"]}
    roles = {name: f"input, {kind}" for name, kind in inputs.items()}
    return {name: roles.get(name, "target") for name in told["arrays"]} | {
        "weight": "weight of items"
    }


def _span(values: list[float]) -> str:
    """One number, or the range over channels."""
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} .. {high:.4g}"
