"""``hpcsamp inspect DIR``: schema, statistics and checksums of a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits

if TYPE_CHECKING:
    from hpcsamp.data.manifest import Manifest


def inspect(
    folder: Annotated[Path, typer.Argument(help="Dataset folder, or a prediction file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and list corrupt chunks.")
    ] = False,
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Also write the description to this JSON file.")
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Describe a dataset folder, or check the seal of a prediction file.

    With --verify, read the whole dataset and check every checksum (in parallel under mpirun).

    Examples:

        hpcsamp inspect data/digits

        mpirun -n 4 hpcsamp inspect data/digits --verify --json digits.json
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
    description = summary(folder, manifest)
    if comm.Get_rank() == 0:
        tell(description)
    found = None
    if verify:
        found = checks.verify(folder, manifest, comm)
        description["verify"] = vars(found)
    else:
        with together(comm):
            for entry in manifest.shards[comm.Get_rank() :: comm.Get_size()]:
                check_header(folder, manifest, entry)
    if comm.Get_rank() == 0 and to_json:
        write_json(to_json, description)
    if found is None:
        return
    if comm.Get_rank() == 0:
        for line in found.bad:
            typer.echo(line)
        typer.echo(
            f"read {found.shards} shards, {found.chunks} chunks, {found.size / 1e6:,.1f} MB: "
            + (f"{len(found.bad)} corrupt" if found.bad else "all intact")
        )
    with together(comm):
        if found.bad:
            raise DataError(f"{folder}: {len(found.bad)} shards or chunks are corrupt")


def _inspect_file(path: Path) -> None:
    """Check the seal of a prediction file and list its arrays."""
    from hpcsamp.sealing import hdf5

    with hdf5.opened(path) as f:
        for name, array in f.items():
            typer.echo(f"{name:16} {array.dtype.str:6} {array.shape}")
    typer.echo(f"{path} is intact: unchanged since hpcsamp wrote it")


def summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the content of ``--json``."""
    return {
        "path": str(folder),
        "bytes": sum(s.size for s in manifest.shards),
        "shard_count": len(manifest.shards),
        **manifest.model_dump(exclude={"shards"}),
        "shards": [s.model_dump(exclude={"chunks"}) for s in manifest.shards],
    }


def tell(info: dict[str, Any]) -> None:
    """Print the description as lines and a table."""
    from hpcsamp.cli.output import show
    from hpcsamp.ingest.choice import listed

    kind = _of_targets(info)
    kind += ", inputs are ids" if info["inputs"] == "ids" else ""
    splits = ", ".join(f"{name} {count:,}" for name, count in info["splits"].items())
    lines = {
        "items": splits,
        "shards": f"{info['shard_count']}, {info['bytes'] / 1e6:,.1f} MB, schema "
        f"{info['schema_version']}, uid {info['uid']}",
        "source": ", ".join(
            f"{k}: {v}" for k, v in info["source"].items() if not isinstance(v, dict)
        ),
        "classes": listed(info.get("class_names") or []),
        "licence": info["licence"],
        "transforms": "; ".join(info["transforms"]),
        "coords": ", ".join(f"{k} [{v}]" if v else k for k, v in info["coords"].items()),
    }
    typer.echo(f"{info['name']} ({info['path']}): {kind}")
    for label, text in lines.items():
        if text:
            typer.echo(f"{label:10s} {text}")
    rows = []
    roles = _roles(info)
    for name, spec in info["arrays"].items():
        stats = info["stats"].get(name)
        values = [_span(stats[key]) if stats else "" for key in ("mean", "std", "min", "max")]
        chunk = f"{spec['items_per_chunk']} items"
        if spec["shape"] and spec["rows_per_chunk"] < spec["shape"][0]:
            chunk = f"{spec['rows_per_chunk']} rows of 1 item"
        if spec["slab"]:
            chunk = f"slab of {' x '.join(map(str, spec['slab']))} of 1 item"
        if spec["compression"]:
            chunk += f", {spec['compression']}"
        shape = " x ".join(map(str, spec["shape"])) or "scalar"
        rows.append([name, roles[name], shape, spec["dtype"], chunk, *values])
    show("", ["array", "role", "item", "dtype", "chunk", "mean", "std", "min", "max"], rows)
    for name, spec in info["arrays"].items():
        if spec["names"]:
            typer.echo(f"names of {name}: {listed(spec['names'])}")
    for name, spec in info["arrays"].items():
        if spec["units"]:
            typer.echo(f"units of {name}: {spec['units']}")


def _of_targets(info: dict[str, Any]) -> str:
    if not info["targets"]:
        return _of_target(info)
    return "; ".join(f"{name}: {_of_target(t)}" for name, t in info["targets"].items())


def _of_target(info: dict[str, Any]) -> str:
    kind = info["task"] + (f", {info['classes']} classes" if info["classes"] else "")
    missing = info["missing"]
    return str(kind) + ("" if missing is None else f", missing values are {missing}")


def _roles(info: dict[str, Any]) -> dict[str, str]:
    """Return the role of each array: input, target or item weight."""
    inputs = info["inputs"] if isinstance(info["inputs"], dict) else {"x": info["inputs"]}
    roles = {name: f"input, {kind}" for name, kind in inputs.items()}
    return {name: roles.get(name, "target") for name in info["arrays"]} | {"weight": "item weight"}


def _span(values: list[float]) -> str:
    """Format one number, or its range over channels."""
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} .. {high:.4g}"
