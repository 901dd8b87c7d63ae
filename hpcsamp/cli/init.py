"""``hpcsamp init``: write a new project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; it must not exist.")],
    data: Annotated[Path, typer.Option(help="Dataset folder written by hpcsamp ingest.")],
) -> None:
    """Write a project for a dataset: a network to edit, its configuration, scripts and a test.

    Every file is short and meant to be edited. The network matches the inputs and targets of the
    dataset; bash run.sh in the folder trains it, evaluates it and writes a report.

    Examples:

        hpcsamp init mine --data data/digits && bash mine/run.sh

        hpcsamp init loads --data data/entsoe && cd loads && bash run.sh
    """
    from hpcsamp.project import write
    from hpcsamp.run.usual import few_items

    for path in write(folder, data):
        typer.echo(path)
    for line in few_items(data):
        typer.echo(f"hpcsamp: warning: {line}", err=True)
    typer.echo(f"next: cd {folder} && bash run.sh        (and python -m pytest, sbatch job.sh)")
