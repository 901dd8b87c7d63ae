"""``hpcsamp ingest SOURCE --out DIR``: convert raw data to a dataset folder, also under mpirun.

The options of a command are the marked arguments of its source (:mod:`hpcsamp.ingest.asked`).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcsamp.cli.options import Quiet, check_levels
from hpcsamp.cli.options import verbose as verbose_option
from hpcsamp.cli.tree import SETTINGS, Command, Group, split
from hpcsamp.errors import UsageError
from hpcsamp.names import SETS
from hpcsamp.spelling import joined, shown
from hpcsamp.watchdog import DEFAULT

if TYPE_CHECKING:
    from hpcsamp.data.manifest import Manifest
    from hpcsamp.ingest.source import Source


class _Set(Command):
    """Command that ingests one dataset; its source is imported only when the command runs."""

    def make_context(
        self, info_name: Any, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Parse the arguments with the options of the source."""
        return self.whole().make_context(info_name, args, parent, **extra)

    def whole(self) -> Any:
        """Return the command with the options of its source."""
        return _command(str(self.name))


class Sets(Group):
    """Group of commands: the registered datasets, and any source as ``package.module:function``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the registered datasets."""
        return list(SETS)

    def get_command(self, ctx: Any, name: str) -> Any:
        """Return the command that ingests a dataset.

        Raises
        ------
        UsageError
            If no dataset has this name.
        """
        fault = SETS.fault(name)
        if fault:
            from hpcsamp.ingest.endings import command_for

            command = command_for(name)
            if command:
                raise UsageError(
                    f"ingest {shown(name)}: put the name of the source first: {command}"
                )
            raise UsageError(f"ingest {shown(name)}: {fault}")
        line = _first_line(SETS.place(name)) if name in SETS else None
        return _Set(name, help=line, rich_markup_mode=None)


FAR = 10.0
"""Factor by which a mean or standard deviation may differ from 1 without a note."""

app = typer.Typer(
    cls=Sets,
    help="""Convert raw data to a dataset folder of HDF5 shards.

    The default is the same for all kinds of data: classes follow from the type of the targets where
    it is unambiguous, and numeric targets are standardised only with --normalize-y,
    because standardised counts are no longer counts.

    Examples:

        hpcsamp ingest digits --out data/digits

        hpcsamp ingest csv load.csv --target load --out data/load
    """,
    **SETTINGS,
)


@app.callback()
def _sets() -> None:
    pass


def _command(name: str) -> Any:
    """Build the command that ingests a dataset from the signature of its source."""
    from hpcsamp.cli.signature import ask

    source: Callable[..., Source] = SETS.find(name)
    asked, arguments = ask(source)
    offered = {p.name: f"--{p.name.replace('_', '-')}" for p in asked.parameters}
    option = offered.get("normalize_y") or offered.get("normalize")

    def ingest(
        out: Annotated[Path, typer.Option("--out", "-o", help="Dataset folder to create.")],
        overwrite: Annotated[bool, typer.Option(help="Replace an existing dataset.")] = False,
        shard_mb: Annotated[
            float | None,
            typer.Option(min=0.001, help="Target size of a shard in MB (256; for weather 512)."),
        ] = None,
        slabs: Annotated[
            str,
            typer.Option(
                help="Store items in slabs: auto (items above 32 MiB), on, off, or the shape of a "
                "slab, e.g. 6x720x120."
            ),
        ] = "auto",
        stall: Annotated[
            float,
            typer.Option(
                min=0, help="End the job if a rank makes no progress for this many seconds."
            ),
        ] = DEFAULT,
        quiet: Quiet = False,
        verbose: Annotated[
            bool, verbose_option("Also describe the dataset, as hpcsamp inspect does.")
        ] = False,
        **given: Any,
    ) -> None:
        check_levels(quiet, verbose)
        made = run(
            lambda: source(**arguments(given)), out, overwrite, shard_mb, stall, slabs, quiet
        )
        if made is None:
            return
        if option is not None and not quiet:
            for line in not_standardised(made, option):
                typer.echo(line)
        if verbose:
            from hpcsamp.cli.inspect import summary, tell

            tell(summary(out, made))

    asked.insert(ingest)
    text, examples = split(source.__doc__)
    ingest.__doc__ = "\n\n".join([text.split("\n\n")[0], "Examples:", *examples])
    made = typer.Typer(**SETTINGS)
    made.command(name, cls=Command)(ingest)
    return typer.main.get_command(made)


def _first_line(place: str) -> str:
    """Return the first line of a function's docstring without importing its module."""
    module, _, name = place.partition(":")
    package, *path = module.split(".")
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]).joinpath(*path).with_suffix(".py")
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return ""


def run(
    make: Callable[[], Source],
    out: Path,
    overwrite: bool,
    shard_mb: float | None,
    stall: float,
    slabs: str = "auto",
    quiet: bool = False,
) -> Manifest | None:
    """Create the source on every rank and write its dataset with all ranks.

    Returns the manifest on rank 0, and nothing on the others.
    """
    from hpcsamp.grid import together
    from hpcsamp.runtime import install_excepthook, mpi
    from hpcsamp.watchdog import STALL
    from hpcsamp.watchdog.dog import Watchdog

    install_excepthook()
    comm = mpi().COMM_WORLD
    from hpcsamp.ingest import build

    root = comm.Get_rank() == 0
    with Watchdog(comm, stall, out.parent / f"{out.name}.{STALL}"):
        with together(comm):
            if shard_mb is not None and not math.isfinite(shard_mb):
                raise UsageError(f"--shard-mb {shard_mb}: must be a finite number")
            source = make()
        if root and not quiet:
            for line in source.report:
                typer.echo(line)

        def progress(done: int, total: int) -> None:
            if total > 1 and not quiet:
                typer.echo(f"shard {done} of {total}")

        manifest = build(
            source,
            out,
            comm=comm,
            shard_bytes=int((shard_mb or source.shard_mb) * 1e6),
            overwrite=overwrite,
            slabs=slabs,
            progress=progress,
        )
    if root:
        for line in [] if quiet else constants(manifest):
            typer.echo(line)
        counts = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
        size = sum(s.size for s in manifest.shards) / 1e6
        typer.echo(f"{out}: {counts} items in {len(manifest.shards)} shards, {size:,.1f} MB")
    return manifest if root else None


def not_standardised(manifest: Manifest, option: str) -> list[str]:
    """Report numeric targets that are far from mean 0 and standard deviation 1."""
    targets = {n: t.normalize for n, t in manifest.targets.items() if t.task == "regression"}
    if not manifest.targets and manifest.task == "regression":
        targets = {"y": manifest.normalize_y}
    lines = []
    for name in (n for n, done in targets.items() if not done and n in manifest.stats):
        stats = manifest.stats[name]
        largest = max(map(abs, (*stats.mean, *stats.std)))
        if largest > FAR or (min(stats.std) < 1 / FAR and max(stats.std) > 0):
            lines.append(
                f"targets {name} are not standardised in training (mean up to "
                f"{max(stats.mean, key=abs):.4g}, std up to {max(stats.std):.4g}); add {option} "
                f"unless they are counts"
            )
    return lines


def constants(manifest: Manifest) -> list[str]:
    """Report the inputs and targets that are constant in the training split."""
    lines = []
    for array, spec in manifest.arrays.items():
        stats, names = manifest.stats.get(array), spec.names
        flat = [i for i, std in enumerate(stats.std) if std == 0] if stats else []
        if flat:
            some = joined(names[i] if i < len(names) else f"channel {i}" for i in flat[:10])
            more = f" and {len(flat) - 10} more" if len(flat) > 10 else ""
            lines.append(
                f"constant in train, so they carry no information: {some}{more} of {array}"
            )
    return lines
