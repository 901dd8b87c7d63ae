"""``hpcsamp bench transports``: time of a gradient all-reduce with each transport."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import RANKS


def transports(
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--transport",
            help="Transport to time; repeatable. Ratios are relative to the first one.",
        ),
    ] = None,
    ranks: Annotated[
        int, typer.Option(min=2, help=f"{RANKS}; all of them exchange gradients.")
    ] = 2,
    numbers: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of elements of a gradient; repeatable.")
    ] = None,
    times: Annotated[int, typer.Option(min=1, help="Exchanges per round.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one warm-up round.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder to write the records to.")] = None,
) -> None:
    """Time the all-reduce of a gradient with Horovod, MPI and torch.distributed.

    Each transport has its own ranks, and the transports alternate. The result of every all-reduce
    is checked.

    Examples:

        hpcsamp bench transports --ranks 2 --numbers 1000 --numbers 5300000

        hpcsamp bench transports --transport mpi --transport torch --out records
    """
    from hpcsamp.bench import records
    from hpcsamp.bench.transports import measure
    from hpcsamp.cli.output import show
    from hpcsamp.names import TRANSPORTS

    chosen = names or ["horovod", "mpi", "torch"]
    for name in chosen:
        TRANSPORTS.find(name)
    measured = measure(chosen, ranks, numbers or [1_000, 100_000, 5_300_000], times, rounds)
    show(
        f"sum of a float32 gradient over {ranks} ranks ({measured[0]['device']}): medians of "
        f"{rounds} rounds of {times} exchanges",
        ["transport", "numbers", "ms", f"over {chosen[0]}", "min", "max"],
        [
            [
                r["collectives"].get("backend", r["transport"]), r["numbers"],
                f"{1e3 * r['seconds']:.4g}", f"{r['ratio']:.3g}", f"{min(r['ratios']):.3g}",
                f"{max(r['ratios']):.3g}",
            ]
            for r in measured
        ],
    )  # fmt: skip
    if out is not None:
        records.write(out / "transports.jsonl", measured)
