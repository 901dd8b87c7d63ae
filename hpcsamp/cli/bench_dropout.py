"""``hpcsamp bench dropout``: time Monte Carlo dropout against plain passes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcsamp.cli.options import RANKS, numbers


def dropout(
    samples: Annotated[int, typer.Option(min=1, help="Number of dropout masks S.")] = 16,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Items per step; repeatable (default: 64 and 256)."),
    ] = None,
    ranks: Annotated[
        str, typer.Option(help=f"{RANKS}; several numbers separated by commas, e.g. 1,2.")
    ] = "1,2,4",
    repeat: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 7,
    masks: Annotated[str, typer.Option(help="method.masks: sample or item.")] = "sample",
    collectives: Annotated[str, typer.Option(help="auto, horovod or mpi.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Time Monte Carlo dropout against plain passes over a batch S/P times as large.

    The network is the paper's for time series, with one thread per rank. All ranks compute at the
    same time, and the variants alternate.

    Examples:

        hpcsamp bench dropout --ranks 1,2

        hpcsamp bench dropout --masks item --batch 64 --json dropout.json
    """
    import tempfile

    from hpcsamp.bench.launch import launch
    from hpcsamp.errors import UsageError
    from hpcsamp.launcher import one_of_several
    from hpcsamp.sealing import text

    batches = batch or [64, 256]
    if masks not in ("sample", "item"):
        raise UsageError(f"--masks {masks!r}: choose from sample, item")
    if one_of_several():
        _measured(samples, batches, repeat, masks, collectives, json_file)
        return
    counts = numbers("--ranks", ranks)
    if samples < max(counts):
        raise UsageError(f"--samples {samples} cannot be split over --ranks {max(counts)}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            path = Path(folder) / f"{count}.json"
            arguments = ["bench", "dropout", "--samples", str(samples), "--repeat", str(repeat)]
            arguments += ["--masks", masks, "--collectives", collectives, "--json", str(path)]
            arguments += [word for b in batches for word in ("--batch", str(b))]
            launch(count, arguments, {"OMP_NUM_THREADS": "1"})
            rows += text.read_json(path)["rows"]
    _show(rows, json_file)


def _measured(
    samples: int,
    batches: list[int],
    repeat: int,
    masks: str,
    collectives: str,
    json_file: Path | None,
) -> None:
    import torch

    from hpcsamp.bench.dropout import compare
    from hpcsamp.grid import init, together
    from hpcsamp.sealing import text

    torch.set_num_threads(1)
    topology = init("world", device="cpu")
    with together(topology.world):
        topology.samples(samples)
    rows = compare(topology, samples, batches, repeat, masks, collectives)
    if not topology.is_root:
        return
    if json_file is None:
        _show(rows, None)
    else:
        json_file.write_text(text.to_json({"rows": rows}))


def _show(rows: list[dict[str, Any]], json_file: Path | None) -> None:
    from hpcsamp.bench.dropout import RATIOS
    from hpcsamp.cli.output import show

    def text(ratio: dict[str, float]) -> str:
        return f"{ratio['median']:.3f} ({ratio['min']:.2f}-{ratio['max']:.2f})"

    show(
        f"Monte Carlo dropout, S = {rows[0]['samples']}, masks per {rows[0]['masks']}, over the "
        f"plain network with a batch S/P times as large; medians and ranges",
        ["ranks", "batch", "plain pass ms", "pass", "training step", "step / plain pass"],
        [
            [
                row["ranks"],
                row["batch"],
                f"{row['seconds']['plain pass'] * 1e3:.2f}",
                *(text(row[label]) for label in RATIOS),
            ]
            for row in rows
        ],
        json_file=json_file,
        data={"rows": rows},
    )
