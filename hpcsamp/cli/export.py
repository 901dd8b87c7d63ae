"""``hpcsamp export``: write the metrics of a run for an experiment tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import AcceptEdits


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[str, typer.Option(help="Tracker: tensorboard, mlflow or wandb (offline).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the files (default: the name of --to)."),
    ] = None,
    accept_edits: AcceptEdits = False,
) -> None:
    """Write the metrics of a run as files for TensorBoard, MLflow or Weights & Biases.

    The command works after a job or while it runs. It may be repeated: the tracker shows one run.

    Examples:

        hpcsamp export runs/a --to tensorboard --out boards

        hpcsamp export runs/a --to wandb
    """
    from hpcsamp.errors import UsageError
    from hpcsamp.report import trackers
    from hpcsamp.spelling import suggest

    if to not in trackers.TRACKERS:
        raise UsageError(
            f"--to {to}: there is no such tracker{suggest(to, trackers.TRACKERS)}; choose from "
            f"{', '.join(trackers.TRACKERS)}"
        )
    folder = out or Path(to)
    trackers.export(run, to, folder)
    how = {
        "tensorboard": f"tensorboard --logdir {folder}",
        "mlflow": "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri "
        + folder.resolve().as_uri(),
        "wandb": f"wandb sync {folder}/wandb/offline-run-*",
    }[to]
    typer.echo(f"show the metrics with: {how}")
