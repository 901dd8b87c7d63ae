"""Complete a configuration from its data: choose or create the dataset, read its latitudes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from hpcsamp import config as configuration
from hpcsamp.config import RunConfig, SyntheticSection
from hpcsamp.data.manifest import NAME, read_manifest
from hpcsamp.errors import DataError, UsageError
from hpcsamp.grid import together
from hpcsamp.ingest.build import SHARD_BYTES, build
from hpcsamp.ingest.identity import identity, plan_shards
from hpcsamp.ingest.synthetic import Synthetic, synthetic
from hpcsamp.names import MADE_UP

if TYPE_CHECKING:
    from mpi4py import MPI

SYNTHETIC = "synthetic"
"""Value that requests a synthetic dataset in place of a dataset folder."""

FROM_DATA = "data"
"""Value that requests the latitudes of the dataset."""


def prepare(config: RunConfig, data: str | None, comm: MPI.Comm) -> RunConfig:
    """Return a configuration whose dataset exists and whose latitudes are in degrees. Collective.

    Parameters
    ----------
    config
        Checked configuration, the same on every rank.
    data
        Dataset folder that replaces ``data.path``; ``"synthetic"`` for the dataset described by
        ``data.synthetic``, which is created beside ``data.path`` unless it exists.
    comm
        The ranks; rank 0 writes.

    Returns
    -------
    RunConfig
        With the folder in ``data.path``, without ``data.synthetic``, and with degrees in
        place of ``loss.latitudes = "data"``.

    Raises
    ------
    UsageError
        If the configuration does not describe a synthetic dataset.
    DataError
        If there is no such dataset, or it has no latitudes.
    """
    path = data or config.data.path
    with together(comm):
        if path == SYNTHETIC:
            section = _section(config)
            path = str(synthetic_folder(config.data.path, section))
            if comm.Get_rank() == 0:
                make(section, Path(path))
        elif not Path(path, NAME).is_file() and config.data.synthetic is not None:
            raise DataError(
                f"{path} is not a dataset; create one with hpcsamp ingest, name one with --data, "
                f"or try --data {SYNTHETIC}"
            )
    with together(comm):
        degrees = None
        if comm.Get_rank() == 0 and config.loss.arguments.get("latitudes") == FROM_DATA:
            degrees = latitudes(path)
    degrees = comm.bcast(degrees)
    table = config.model_dump(exclude_none=True)
    table["data"] = {k: v for k, v in table["data"].items() if k != "synthetic"} | {"path": path}
    if degrees is not None:
        table["loss"]["latitudes"] = degrees
    with together(comm):
        return configuration.check(table)


def source_of(section: SyntheticSection) -> Synthetic:
    """The source of the synthetic dataset of a configuration; nothing is drawn yet."""
    return synthetic(section.like, section.items, seed=section.seed, grid=section.grid)


def synthetic_folder(path: str, section: SyntheticSection) -> Path:
    """Folder of a synthetic dataset beside the real one: ``data/synthetic-era5-40-24x48``."""
    parts = ["synthetic", section.like.replace(":", "-"), str(section.items)]
    parts += [f"{section.grid[0]}x{section.grid[1]}"] if section.grid else []
    parts += [f"seed{section.seed}"] if section.seed else []
    name = "-".join(parts)
    return Path(name) if path == SYNTHETIC else Path(path).parent / name


def make(section: SyntheticSection, folder: Path) -> None:
    """Write a synthetic dataset, unless the folder already contains it.

    Raises
    ------
    UsageError
        If the folder contains another dataset.
    """
    source = source_of(section)
    if (folder / NAME).is_file():
        wanted = identity(source, plan_shards(source, SHARD_BYTES))
        found = read_manifest(folder).uid
        if found != wanted:
            raise UsageError(
                f"{folder} contains dataset {found}, but the configuration describes {wanted}; "
                f"remove the folder to create it again"
            )
        return
    build(source, folder, waiting=partial(_report_waiting, folder))


def _report_waiting(folder: Path) -> None:
    sys.stderr.write(f"hpcsamp: another job is creating {folder}; waiting for it\n")


def latitudes(path: str | Path) -> list[float]:
    """Latitudes of a dataset's fields, in degrees.

    Raises
    ------
    DataError
        If the dataset has no latitudes.
    """
    manifest = read_manifest(path)
    if "latitude" not in manifest.coords:
        raise DataError(
            f'loss.latitudes = "{FROM_DATA}", but {path} has no latitudes, only '
            f"{', '.join(manifest.coords) or 'no coordinates'}"
        )
    try:
        with h5py.File(Path(path) / manifest.shards[0].file, "r", driver="sec2") as f:
            return [float(v) for v in f["coords/latitude"][:]]
    except (OSError, KeyError) as e:
        raise DataError(f"{path}: cannot read latitudes: {e}") from e


def _section(config: RunConfig) -> SyntheticSection:
    if config.data.synthetic is None:
        raise UsageError(
            f"--data {SYNTHETIC}: the configuration describes no synthetic dataset; add "
            f"[data.synthetic] with like = one of {', '.join(MADE_UP)}, and items"
        )
    return config.data.synthetic
