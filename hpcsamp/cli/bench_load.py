"""``hpcsamp bench load``: time of predictions from Python, and of the first prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def load(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    items: Annotated[int, typer.Option(min=1, help="Number of items to predict.")] = 1000,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Number of weight samples, and of plain passes to compare with."),
    ] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 7,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the results to this JSON file.")
    ] = None,
) -> None:
    """Time hs.load(RUN).predict against plain passes, and its first call against import torch.

    Examples:

        hpcsamp bench load runs/a

        hpcsamp bench load runs/a --items 100 --samples 16 --json load.json
    """
    import statistics

    from hpcsamp.bench.load import first_answers, predictions, ratio
    from hpcsamp.cli.output import write_json
    from hpcsamp.errors import UsageError

    if not (run / "config.toml").is_file():
        raise UsageError(f"{run} is not a run folder: it has no config.toml")
    ratios = predictions(run, items, samples, rounds)
    answers, imports = first_answers(run, rounds)
    typer.echo(
        f"predict {items} items with {samples} samples / {samples} plain passes: "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    )
    typer.echo(
        f"first prediction / import torch, CPU time of processes: {ratio(answers, imports):.2f} "
        f"({statistics.median(answers):.2f} s / {statistics.median(imports):.2f} s)"
    )
    if json_file is not None:
        write_json(json_file, {"predict": ratios, "first_answer": answers, "import_torch": imports})
