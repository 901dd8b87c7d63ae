"""``hpcsamp bench exactness``: gradient error of averaging local losses over ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def exactness(
    samples: Annotated[int, typer.Option(min=2, help="Weight samples S.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Items per step.")] = 8,
    std: Annotated[
        float, typer.Option(min=1e-6, help="Posterior standard deviation of the weights.")
    ] = 0.05,
    model: Annotated[str, typer.Option(help="vit, mlp or both.")] = "both",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Measure the gradient error of loss.exact = false against the number of ranks, per loss.

    The error is the relative difference of the data term's gradient with respect to the parameters.
    The ranks of the job share the work, and the error is also measured in real training steps on
    that number of ranks.

    Examples:

        hpcsamp bench exactness --model mlp

        mpirun -n 4 hpcsamp bench exactness --samples 8 --json exactness.json
    """
    from hpcsamp import choose
    from hpcsamp.bench.exactness import LOSSES, ExactnessCase, compare
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError
    from hpcsamp.grid import init

    if model not in (*LOSSES, "both"):
        raise UsageError(f"--model {model!r}: choose from {', '.join(LOSSES)}, both")
    topology = init("world", device="cpu")
    topology.samples(samples)
    collectives = choose(topology, "mpi")
    found = [
        compare(ExactnessCase(name, samples, batch, std), loss, collectives)
        for name in (LOSSES if model == "both" else [model])
        for loss in LOSSES[name]
    ]
    splits = found[0]["splits"]

    def short(difference: float | None) -> str | None:
        return None if difference is None else f"{difference:.1e}"

    if topology.is_root:
        show(
            f"gradient with loss.exact = false, relative difference from the sequential gradient; "
            f"S = {samples}, batch {batch}, weight std {std:g}",
            ["model", "loss", *(f"P = {p}" for p in splits), f"{topology.size} real ranks"],
            [
                [
                    row["model"],
                    row["loss"],
                    *map(short, [*row["splits"].values(), row["measured"]]),
                ]
                for row in found
            ],
            json_file=json_file,
            data={"samples": samples, "batch": batch, "std": std, "losses": found},
        )
