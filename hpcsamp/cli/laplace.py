"""``hpcsamp laplace``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import AcceptEdits, Verbose, check_levels
from hpcsamp.cli.posterior import Checkpoint, Run, Settings, Stall, posterior_of


def laplace(
    run: Run,
    kind: Annotated[
        str,
        typer.Option(
            help="Curvature: last (whole matrix of the last linear layer), last_kron, kron or diag "
            "(all linear and convolution layers)."
        ),
    ] = "last",
    prior_precision: Annotated[
        float | None,
        typer.Option(help="Prior precision (default: that of the largest marginal likelihood)."),
    ] = None,
    predictive: Annotated[
        str,
        typer.Option(
            help="Predictive distribution: samples (draws of weights) or probit (mean class "
            "probabilities without draws, MacKay 1992)."
        ),
    ] = "samples",
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the Laplace posteriors of all checkpoints.")
    ] = False,
    checkpoint: Checkpoint = "last",
    settings: Settings = None,
    stall: Stall = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the fitted values to this JSON file.")
    ] = None,
    verbose: Verbose = False,
    accept_edits: AcceptEdits = False,
) -> None:
    """Fit a Laplace posterior to a trained network; later predictions draw from it.

    The fit makes one pass over the training set. The posterior is kept in the run folder: hpcsamp
    evaluate, predict, report and hs.load(RUN) use it for the same checkpoint. Predictions use the
    trained weights again after --remove.

    Examples:

        hpcsamp laplace runs/a

        mpirun -n 4 hpcsamp laplace runs/a --kind kron --prior-precision 10
    """
    check_levels(False, verbose)
    from hpcsamp.watchdog import STALL

    if remove:
        _remove(run)
        return

    with posterior_of(
        run, settings, None, checkpoint, stall, run / STALL, recalibrate=False, laplace=False
    ) as posterior:
        from hpcsamp.prediction.laplace import fit

        result = fit(posterior, kind, prior_precision, predictive)
    if posterior.topology.is_root:
        _show(run, result, json_file)


def _remove(run: Path) -> None:
    from hpcsamp.grid import together
    from hpcsamp.run import laplace as kept
    from hpcsamp.run.folder import RunFolder
    from hpcsamp.runtime import mpi

    world = mpi().COMM_WORLD
    with together(world):
        if world.rank == 0:
            folder = RunFolder(run)
            folder.config()  # a run folder, whose configuration is whole
            count = kept.remove(folder)
            typer.echo(f"{run}: {count} Laplace posterior{'s' if count > 1 else ''} removed")


def _show(run: Path, result: dict[str, Any], json_file: Path | None) -> None:
    from hpcsamp.cli.output import show

    rows: list[list[Any]] = [
        ["layers", ", ".join(result["layers"])],
        ["weights", result["weights"]],
        ["effective weights", f"{result['effective_weights']:.5g}"],
        ["prior precision", f"{result['prior_precision']:.5g}"],
        ["log marginal likelihood", f"{result['log_evidence']:.6g} nats"],
        ["predictive", result["predictive"]],
        ["seconds", f"{result['seconds']:.3g}"],
    ]
    show(
        f"{run}: {result['checkpoint']}, Laplace posterior ({result['kind']}) of "
        f"{result['items']} training items",
        ["", "fitted"],
        rows,
        json_file=json_file,
        data=result,
    )
