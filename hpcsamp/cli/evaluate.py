"""``hpcsamp evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    split: Annotated[str, typer.Option(help="Which split to evaluate.")] = "test",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Weight samples (default: evaluation.samples).")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help='"last", "best", or the path of a checkpoint.')
    ] = "last",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key, e.g. data.path=...")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here.")] = None,
) -> None:
    """Evaluate the posterior predictive of a run: alone, or on every rank under mpirun or srun."""
    from hpcsamp import config as configuration
    from hpcsamp.cli.output import show
    from hpcsamp.runtime import mpi
    from hpcsamp.topology import init, together
    from hpcsamp.training.record import RunFolder

    folder = RunFolder(run)
    with together(mpi().COMM_WORLD):
        folder.config()
        config = configuration.load(run / "config.toml", settings or ())
    topology = init(config.parallel.samples, device=config.parallel.device)
    from hpcsamp.training.evaluation import evaluate_run

    result = evaluate_run(
        folder,
        config,
        topology,
        split=split,
        samples=samples or config.evaluation.samples,
        which=checkpoint,
    )
    if topology.is_root:
        note = "" if result["temperature"] == 1 else f", temperature {result['temperature']}"
        show(
            f"{run}: {split}, {result['samples']} weight samples, {result['checkpoint']}{note}",
            ["metric", "value"],
            [[k, f"{v:.4f}" if k != "items" else f"{v:.0f}"] for k, v in result["metrics"].items()],
            json_file=json_file,
            data=result,
        )
