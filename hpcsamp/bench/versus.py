"""``hpcsamp bench baselines``: time hpcsamp and its baselines in alternating rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcsamp.bench import records
from hpcsamp.bench.scaling import WATCHED, Experiment
from hpcsamp.bench.turns import Turns
from hpcsamp.bench.variants import OURS, Variant
from hpcsamp.bench.workloads import ScalingPoint

#: Baselines that run on all ranks; the others run on one.
TOGETHER = ("ddp_sampling", "ddp_sampling_math", "ddp_data")
#: Baselines of each method that are timed by default; this takes minutes on two cores.
USUAL = {
    "mean_field": ("plain", "torch_blue", "ddp_sampling", "ddp_data"),
    "mc_dropout": ("plain", "ddp_sampling", "ddp_data"),
}
ONE, ALL, SHARE, HALF = "1 rank", "all ranks", "1 rank, its share of S", "1 rank, bfloat16"


def variants(
    experiment: Experiment, ranks: int, names: Sequence[str], bfloat16: bool
) -> list[Variant]:
    """Return the variants to measure: hpcsamp on one rank and on all, and the baselines."""
    size = experiment.size
    one = ScalingPoint(1, "alone", 1, size.samples, size.batch)
    every = ScalingPoint(ranks, "sampling", ranks, size.samples, size.batch)
    share = ScalingPoint(1, "alone", 1, max(1, size.samples // ranks), size.batch)
    found = [experiment.variant(one, label=ONE)]
    if ranks > 1:
        found.append(experiment.variant(every, label=ALL))
        found.append(experiment.variant(share, label=SHARE))
    if bfloat16:
        half = experiment.variant(one, label=HALF)
        settings = (*half.settings, 'training.precision="bfloat16"')
        found.append(Variant(**{**vars(half), "settings": settings}))
    for name in names:
        found.append(experiment.variant(every if name in TOGETHER else one, name, label=name))
    return found


def measure(experiment: Experiment, chosen: Sequence[Variant], rounds: int) -> list[dict[str, Any]]:
    """Measure all variants in alternating rounds; return a record of each."""
    with Turns(v.job() for v in chosen) as turns:
        found = turns.rounds("round", rounds, warm=1)
        watched = turns.rounds("watch", min(rounds, WATCHED))
        ends = turns.end()
    where = records.surroundings(ends[0]["device"])
    items = ends[0]["items"]
    made = []
    for variant, own, seen, told in zip(chosen, found, watched, ends, strict=True):
        samples, batch = (_number(variant, key) for key in ("method.samples", "data.batch"))
        made.append(
            {
                "event": "baseline",
                "workload": experiment.name,
                "variant": variant.name,
                "label": variant.label,
                "world_size": variant.ranks,
                "samples": samples,
                "batch": batch,
                "round_steps": max(1, variant.steps),
                **records.timed([a["seconds"] for a in own], items, batch),
                "phases": records.phases(seen),
                **told,
                **where,
            }
        )
    return made


def _number(variant: Variant, key: str) -> int:
    found = [s.partition("=")[2] for s in variant.settings if s.startswith(f"{key}=")]
    return int(found[-1])


def table(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table: variants, ratio of times over rounds, ratio of peak memory."""
    by = {r["label"]: r for r in found}
    one, every = by[ONE], by.get(ALL)
    rows = []
    if every is not None:
        rows.append(ratio(f"speed-up of {every['world_size']} ranks over 1", one, every))
    if SHARE in by and every is not None:
        share = by[SHARE]
        said = (
            f"efficiency, S growing from {share['samples']} on 1 rank to {every['samples']} "
            f"on {every['world_size']}"
        )
        rows.append(ratio(said, share, every))
    if HALF in by:
        rows.append(ratio("bfloat16 over float32, 1 rank", one, by[HALF]))
    for name, record in by.items():
        if record["variant"] == OURS:
            continue
        ours = every if record["world_size"] > 1 else one
        if ours is None:
            continue
        if name == "plain":
            rows.append(ratio(f"1 rank / {one['samples']} plain passes (time)", one, record))
        else:
            ranks = record["world_size"]
            rows.append(ratio(f"over {name}, {ranks} rank{'s' * (ranks > 1)}", record, ours))
            rows[-1]["memory"] = _peak(ours) / _peak(record)
    return rows


def ratio(what: str, above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Return a row: the ratio of the times of two records over their rounds."""
    ratios = [a / b for a, b in zip(above["rounds"], below["rounds"], strict=True)]
    return {
        "what": what,
        "ratio": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "memory": None,
    }


def _peak(record: dict[str, Any]) -> float:
    return float(max(record["peak_rss_mb"]))


def has_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
