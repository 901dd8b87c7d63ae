"""Time the training step on one GPU for several chunk sizes, precisions and numbers of ranks.

Several ranks on one GPU exchange gradients with MPI, because NCCL does not support this. The code
was written for a machine with a GPU; tests without one cover it as far as possible.
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


def variants(experiment: Experiment, samples: int, batch: int, ranks: int) -> list[Variant]:
    """Return the variants: one sample at a time, vectorised chunks, bfloat16, several ranks, and
    the baselines."""
    one = ScalingPoint(1, "alone", 1, samples, batch)
    several = ScalingPoint(ranks, "sampling", ranks, samples, batch)
    made = [_with(experiment.variant(one, label="one sample at a time"))]
    chunks = [c for c in (4, 16) if c <= samples]
    for chunk in chunks:
        chunked = experiment.variant(one, label=f"{chunk} samples at once")
        made.append(_with(chunked, f"method.samples_per_pass={chunk}"))
    wide = f"method.samples_per_pass={chunks[-1] if chunks else 1}"
    half = experiment.variant(one, label="the same, bfloat16")
    made.append(_with(half, wide, 'training.precision="bfloat16"'))
    if 1 < ranks <= samples:
        shared = experiment.variant(several, label=f"{ranks} ranks on the GPU, by MPI")
        made.append(_with(shared, 'parallel.collectives="mpi"'))
    made += [_with(experiment.variant(one, name, label=name)) for name in ("plain", "torch_blue")]
    return made


def _with(variant: Variant, *settings: str) -> Variant:
    return replace(variant, settings=(*variant.settings, *settings, 'parallel.device="cuda"'))


def measure(
    workload: str,
    samples: int,
    batch: int | None,
    ranks: int,
    rounds: int,
    steps: int,
    settings: tuple[str, ...],
    data: str,
) -> list[dict[str, Any]]:
    """Measure all variants in turn and return their records."""
    found = find(workload)
    size = replace(found.full, steps=steps)
    experiment = Experiment(workload, found, size, "fixed", settings, data)
    chosen = variants(experiment, samples, batch or size.batch, ranks)
    if "mlp" in found.config or "swin" in found.config:
        chosen = [v for v in chosen if v.name != "torch_blue"]
    return versus.measure(experiment, chosen, rounds)
