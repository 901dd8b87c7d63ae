"""Options of the commands that predict with a run, and loading the run on all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hpcsamp.prediction.posterior import Posterior

Run = Annotated[Path, typer.Argument(help="Run folder.")]
Data = Annotated[
    Path | None, typer.Option(help="Another dataset with the same schema (default: the run's).")
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of weight samples (default: evaluation.samples, else method.samples)."
    ),
]
Checkpoint = Annotated[str, typer.Option(help='Checkpoint to load: "last", "best" or a path.')]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set a configuration key, e.g. data.path=...; repeatable."),
]
Uncalibrated = Annotated[
    bool,
    typer.Option(
        "--uncalibrated", help="Ignore the recalibration of the run (see hpcsamp recalibrate)."
    ),
]
Stall = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="End the job if a rank makes no progress for this many seconds (default: the run's).",
    ),
]


@contextmanager
def posterior_of(
    run: Path,
    settings: list[str] | None,
    samples: int | None,
    checkpoint: str,
    stall: float | None,
    stall_file: Path,
    *,
    recalibrate: bool = True,
    laplace: bool = True,
) -> Iterator[Posterior]:
    """Load a run on the ranks of this job and watch for stalled ranks in the block. Collective."""
    with posteriors_of(
        [run], settings, samples, checkpoint, stall, stall_file, recalibrate, laplace
    ) as found:
        yield found[0]


@contextmanager
def posteriors_of(
    runs: Sequence[Path],
    settings: list[str] | None,
    samples: int | None,
    checkpoint: str,
    stall: float | None,
    stall_file: Path,
    recalibrate: bool = True,
    laplace: bool = True,
) -> Iterator[list[Posterior]]:
    """Load runs on one grid, that of the first; see :func:`posterior_of`. Collective."""
    from hpcsamp.grid import init, together
    from hpcsamp.run.folder import RunFolder
    from hpcsamp.runtime import mpi

    folders = [RunFolder(run) for run in runs]
    with together(mpi().COMM_WORLD):
        configs = [folder.config(settings or ()) for folder in folders]
    config = configs[0]
    model = config.parallel.model
    asked = any(text.partition("=")[0].strip() == "parallel.model" for text in settings or ())
    topology = init(
        config.parallel.samples,
        model=model,
        fall_back=not asked,
        device=config.parallel.device,
    )
    if topology.model_size != model and topology.is_root:
        typer.echo(
            f"the run's parallel.model = {model} does not fit {topology.world.size} ranks: each "
            f"rank holds the whole network (parallel.model = 1); the results are the same",
            err=True,
        )
    from hpcsamp.prediction.posterior import Posterior
    from hpcsamp.run.restore import restore
    from hpcsamp.watchdog.dog import Watchdog

    seconds = config.training.stall if stall is None else stall
    with Watchdog(topology.world, seconds, stall_file):
        yield [
            Posterior(
                restore(folder, of, topology, samples=samples, which=checkpoint, posterior=laplace),
                topology,
                recalibrate=recalibrate,
            )
            for folder, of in zip(folders, configs, strict=True)
        ]
