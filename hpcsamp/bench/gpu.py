"""Time the training step on one device for several chunk sizes, precisions and numbers of ranks.

Several ranks on one GPU exchange gradients with MPI, because NCCL does not support this. The same
variants run on a CPU, where they test this code; their times say nothing about GPUs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hpcsamp import devices
from hpcsamp.bench import versus
from hpcsamp.bench.scaling import Experiment
from hpcsamp.bench.variants import Variant
from hpcsamp.bench.workloads import ScalingPoint, find
from hpcsamp.errors import UsageError

#: Labels of the variants that memory is compared between: S samples in turn, and a single one.
LOOP, SINGLE = "one sample at a time", "S = 1"


def check() -> None:
    """Check that there is a GPU.

    Raises
    ------
    UsageError
        If this process sees no GPU.
    """
    seen = devices.observe()
    if not seen.visible:
        why = seen.reason if seen.built else "this torch is a CPU build"
        raise UsageError(
            f"bench gpu needs a GPU, but this process sees none{f': {why}' if why else ''}"
        )


def variants(
    experiment: Experiment, samples: int, batch: int, ranks: int, device: str = "cuda"
) -> list[Variant]:
    """Return the variants: one sample at a time, vectorised chunks, bfloat16, several ranks, a
    single sample, and the baselines."""
    one = ScalingPoint(1, "alone", 1, samples, batch)
    several = ScalingPoint(ranks, "sampling", ranks, samples, batch)
    single = ScalingPoint(1, "alone", 1, 1, batch)
    made = [_with(experiment.variant(one, label=LOOP), "method.samples_per_pass=1")]
    chunks = [c for c in (4, 16) if c <= samples]
    for chunk in chunks:
        chunked = experiment.variant(one, label=f"{chunk} samples at once")
        made.append(_with(chunked, f"method.samples_per_pass={chunk}"))
    wide = f"method.samples_per_pass={chunks[-1] if chunks else 1}"
    half = experiment.variant(one, label="the same, bfloat16")
    made.append(_with(half, wide, 'training.precision="bfloat16"'))
    if 1 < ranks <= samples:
        shared = experiment.variant(several, label=f"{ranks} ranks on the device, by MPI")
        made.append(_with(shared, 'parallel.collectives="mpi"'))
    made.append(_with(experiment.variant(single, label=SINGLE), "method.samples_per_pass=1"))
    made += [experiment.variant(one, name, label=name) for name in ("plain", "torch_blue")]
    return [_with(variant, f'parallel.device="{device}"') for variant in made]


def _with(variant: Variant, *settings: str) -> Variant:
    return replace(variant, settings=(*variant.settings, *settings))


def measure(
    workload: str,
    samples: int,
    batch: int | None,
    ranks: int,
    rounds: int,
    steps: int,
    settings: tuple[str, ...],
    data: str,
    device: str = "cuda",
    small: bool = False,
) -> list[dict[str, Any]]:
    """Measure all variants in turn and return their records."""
    found = find(workload)
    size = replace(found.small if small else found.full, steps=steps)
    experiment = Experiment(workload, found, size, "fixed", settings, data)
    chosen = variants(experiment, samples, batch or size.batch, ranks, device)
    if "mlp" in found.config or "swin" in found.config:
        chosen = [v for v in chosen if v.name != "torch_blue"]
    return versus.measure(experiment, chosen, rounds)


def peak_mb(record: dict[str, Any]) -> float:
    """Return the peak memory of all ranks of a record, in MiB: on the GPU, if it used one."""
    return float(
        sum(record["peak_gpu_mb"] if record["device"] == "cuda" else record["peak_rss_mb"])
    )


def where(record: dict[str, Any]) -> str:
    """Return the card, its driver and the date of a record; the processor, if it used no GPU."""
    machine = record["machine"]
    device = machine["cpu"]
    if record["device"] == "cuda":
        device = f"{machine['gpu']}, driver {machine['driver'] or 'unknown'}"
    return f"{device}, torch {record['versions']['torch']}, {record['date'][:10]}"
