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

from hpcsamp.cli import (
    bench,
    campaign,
    doctor,
    evaluate,
    ingest,
    init,
    inspect,
    models,
    plan,
    predict,
    report,
    train,
)
from hpcsamp.errors import UsageError

#: Exception that typer raises for wrong arguments: click's, or that of typer's own copy of click.
typer_usage_error: type[Any] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="hpcsamp",
    help="Train Bayesian neural networks on a cluster by sampling parallelism (Horovod and MPI).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.add_typer(ingest.app, name="ingest")
app.command("inspect")(inspect.inspect)
app.command("models")(models.models)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.add_typer(campaign.app, name="campaign")
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"hpcsamp {installed('hpcsamp')}")
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
        if not e.format_message():  # a group without a command has printed its help
            sys.exit(UsageError.exit_code)
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
