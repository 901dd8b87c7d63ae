"""The command line: ``hpcsamp COMMAND``, one file per command.

Command modules import heavy packages inside their functions, so that ``--help`` prints at once and
does not start MPI.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from hpcsamp.cli.tree import group
from hpcsamp.errors import UsageError

#: Exception that typer raises for wrong arguments: click's, or that of typer's own copy of click.
typer_usage_error: type[Any] = typer.BadParameter.__mro__[2]

#: Commands in the order of the help, each with its module and the first line of its docstring.
COMMANDS = {
    "init": (
        "hpcsamp.cli.init:init",
        "Write a project for a dataset: a network to edit, its configuration, scripts and a test.",
    ),
    "train": (
        "hpcsamp.cli.train:train",
        "Train a Bayesian neural network in one process, or on all ranks under mpirun or srun.",
    ),
    "evaluate": (
        "hpcsamp.cli.evaluate:evaluate",
        "Evaluate the posterior predictive of a run, in one process or on all ranks under mpirun.",
    ),
    "predict": (
        "hpcsamp.cli.predict:predict",
        "Write the posterior predictive of every item to one HDF5 file that xarray can open.",
    ),
    "recalibrate": (
        "hpcsamp.cli.recalibrate:recalibrate",
        "Fit temperature scaling and conformal prediction to a split; later results use them.",
    ),
    "laplace": (
        "hpcsamp.cli.laplace:laplace",
        "Fit a Laplace posterior to a trained network; later predictions draw from it.",
    ),
    "ingest": (
        "hpcsamp.cli.ingest:app",
        "Convert raw data to a dataset folder of HDF5 shards.",
    ),
    "inspect": (
        "hpcsamp.cli.inspect:inspect",
        "Describe a dataset folder, or check the seal of a prediction file.",
    ),
    "models": (
        "hpcsamp.cli.models:models",
        "List the networks, or report the parameters of a run and the memory of a training step.",
    ),
    "plan": (
        "hpcsamp.cli.plan:plan",
        "Predict time, memory and speed-up on each grid of ranks; show the fastest and its "
        "bottleneck.",
    ),
    "report": (
        "hpcsamp.cli.report:report",
        "Write a page with the learning curves, calibration and most uncertain items of a run.",
    ),
    "export": (
        "hpcsamp.cli.export:export",
        "Write the metrics of a run as files for TensorBoard, MLflow or Weights & Biases.",
    ),
    "campaign": (
        "hpcsamp.cli.campaign:app",
        "Plan, submit and collect many runs described by one campaign file.",
    ),
    "bench": (
        "hpcsamp.cli.bench:app",
        "Benchmark hpcsamp on this machine, against real baselines.",
    ),
    "doctor": (
        "hpcsamp.cli.doctor:doctor",
        "Check the installation, MPI and this machine, and print how to fix each fault.",
    ),
    "explain": (
        "hpcsamp.cli.explain:explain",
        "Explain an error message or a symptom, and how to fix its cause.",
    ),
}

app = group(
    "hpcsamp",
    """Train Bayesian neural networks on a cluster by sampling parallelism (Horovod and MPI).

    Examples:

        hpcsamp train --data data/digits

        mpirun -n 4 hpcsamp train vit-digits --output runs/a
    """,
    COMMANDS,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from hpcsamp import __version__

        typer.echo(f"hpcsamp {__version__}")
        raise typer.Exit


def _find_modules_here() -> None:
    """Make modules in the current folder importable, after all installed packages."""
    with suppress(OSError):  # the current folder was removed
        here = str(Path.cwd())
        if not sys.flags.safe_path and here not in sys.path:
            sys.path.append(here)


def main() -> None:
    """Run a command; a failure prints one line and sets the exit code, see hpcsamp.errors."""
    from hpcsamp.launcher import ApartError, one_of_several
    from hpcsamp.runtime import end_job, mpi

    _find_modules_here()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be valid UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer_usage_error as e:
        # Every rank has the same wrong arguments: rank 0 reports them, and only MPI knows the rank.
        error = UsageError(e.format_message())
        error.agreed = True
        if one_of_several():
            try:
                mpi()
            except ApartError as apart:
                error = apart
        code = end_job(error)
    except Exception as e:
        code = end_job(e)
    sys.exit(code if isinstance(code, int) else 0)
