"""``hpcsamp bench model-axis``: a step of a model-parallel network against its matrix products."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcsamp.cli.options import RANKS


def model_axis(
    ranks: Annotated[
        int, typer.Option(min=2, help=f"{RANKS}; all of them are model ranks (M).")
    ] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Weight samples S, a multiple of M.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 5,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Set a configuration key; repeatable.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the table to this JSON file.")
    ] = None,
) -> None:
    """Time a mixer's step on M model ranks against 1/M of its matrix products on all cores.

    The exchanges of a step are counted, too, and compared with the formulas in the mixer's
    documentation. There is one thread per rank; steps and matrix products alternate in one job.

    Examples:

        hpcsamp bench model-axis --ranks 2

        hpcsamp bench model-axis --ranks 4 --samples 4 --json model-axis.json
    """
    from hpcsamp.bench.launch import launch
    from hpcsamp.launcher import one_of_several

    if not one_of_several():
        arguments = ["bench", "model-axis", "--samples", str(samples), "--repeat", str(repeat)]
        arguments += [f"--set={s}" for s in settings or ()]
        arguments += ["--json", str(json_file)] if json_file else []
        launch(ranks, arguments, {"OMP_NUM_THREADS": "1"})
        return
    _measured(samples, repeat, settings or [], json_file)


def _measured(samples: int, repeat: int, settings: list[str], json_file: Path | None) -> None:
    import torch

    from hpcsamp.bench.model_axis import compare
    from hpcsamp.cli.output import show
    from hpcsamp.training.phases import NAMES

    torch.set_num_threads(1)
    found = compare(samples, repeat, settings)
    if found is None:
        return
    rows = [
        [f"step / floor, {word}", *(f"{found[key][k]:.3f}" for k in ("median", "min", "max"))]
        for word, key in (("seconds", "ratio"), ("CPU seconds", "cpu_ratio"))
    ]
    for name in NAMES:
        spent = sorted(phases[name] / found["seconds"]["step"] for phases in found["phases"])
        if spent[-1] >= 0.001:
            middle = sum(spent) / len(spent)
            rows.append([f"{name} / step", *(f"{v:.3f}" for v in (middle, spent[0], spent[-1]))])
    for word in ("exchanges", "bytes"):
        sent, expected = found[word], found[f"expected_{word}"]
        for rank, (a, b) in enumerate(zip(sent, expected, strict=True)):
            rows.append([f"{word} of rank {rank}: counted, by formula", f"{a:,}", f"{b:,}", ""])
    show(
        f"mixer, M = {found['ranks']}, S = {found['samples']}, batch {found['batch']}, "
        f"{found['products'] / 1e9:.0f} GFLOP of matrix products per step; step "
        f"{found['seconds']['step']:.2f} s (CPU {found['cpu_seconds']['step']:.2f} s), floor "
        f"{found['seconds']['floor']:.2f} s (CPU {found['cpu_seconds']['floor']:.2f} s); "
        f"{found['how']}",
        ["", "median", "min", "max"],
        rows,
        json_file=json_file,
        data=found,
    )
