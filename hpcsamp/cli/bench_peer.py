"""``hpcsamp bench baselines --against numpyro``: table and records."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer


def numpyro(
    workload: str,
    samples: int | None,
    batch: int | None,
    rounds: int,
    steps: int | None,
    settings: Sequence[str],
    out: Path | None,
    unused: Mapping[str, bool],
) -> None:
    """Time the training step of small networks against NumPyro's.

    Parameters
    ----------
    workload
        Networks, named by their widths and separated by commas; empty for all.
    samples, batch, steps
        Values to use in place of the networks' own.
    unused
        Names of the options that do not apply here, and whether each was used.
    """
    from hpcsamp.bench import records
    from hpcsamp.bench.peer import compare, environment
    from hpcsamp.bench.peer.cases import ITEMS, find
    from hpcsamp.bench.variants import OURS
    from hpcsamp.cli.output import show
    from hpcsamp.errors import UsageError

    for name, given in unused.items():
        if given:
            raise UsageError(f"--{name} does not apply to --against numpyro")
    cases = [
        replace(
            case,
            samples=samples or case.samples,
            batch=batch or case.batch,
            steps=steps or case.steps,
        )
        for case in find(workload)
    ]
    if batch is not None and batch > ITEMS:
        raise UsageError(f"--batch {batch}: --against numpyro has only {ITEMS} items of data")
    python = environment.build(environment.folder(), lambda line: typer.echo(f"hpcsamp: {line}"))
    measured: list[dict[str, Any]] = []
    rows: list[list[str | int]] = []
    for case in cases:
        with tempfile.TemporaryDirectory() as scratch:
            found = compare.measure(case, Path(scratch), python, settings, rounds)
        measured += found
        for name in (OURS, compare.FLOOR):
            against = compare.ratio(found, name, compare.PEER)
            took = {r["variant"]: f"{1e3 * r['seconds_per_step']:.3g}" for r in found}
            ratios = [f"{against[k]:.2f}" for k in ("median", "min", "max")]
            rows.append(
                [case.name, case.batch, case.samples, name, took[name], took[compare.PEER], *ratios]
            )
    versions = measured[1]["versions"]
    show(
        f"time of a training step over that of NumPyro {versions['numpyro']} (jax "
        f"{versions['jax']}), one "
        f"core, {rounds} alternating rounds, {measured[0]['machine']['cpu']}",
        ["network", "batch", "S", "variant", "ms", "NumPyro ms", "ratio", "min", "max"],
        rows,
    )
    if out is not None:
        records.write(out / "baselines.jsonl", measured)
        typer.echo(f"records in {out / 'baselines.jsonl'}")
