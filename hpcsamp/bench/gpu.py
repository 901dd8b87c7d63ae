"""Time the training step on one device, and compare the ratios with performance goals for a GPU.

Several ranks on one GPU exchange gradients with MPI, because NCCL does not support this. The same
variants run on a CPU, where they test this code; their times do not apply to GPUs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcsamp import config as configuration
from hpcsamp import devices
from hpcsamp.bench import versus
from hpcsamp.bench.peer.cases import CASES
from hpcsamp.bench.scaling import Experiment
from hpcsamp.bench.variants import Variant
from hpcsamp.bench.workloads import ScalingPoint, ScalingWorkload, Size, find
from hpcsamp.errors import UsageError

#: Workloads with performance goals; the last two are mean field on perceptrons of these widths.
USUAL = ("vit-cifar10", "13-50-1", "96-128-128-24")
#: Labels of the variants.
CHOSEN, LOOP, SINGLE = "chunks chosen by measurement", "one sample at a time", "S = 1"
PLAIN, CAPTURED, BLUE = "S plain passes", "plain pass of S-fold work", "torch_blue"
BASELINES = {PLAIN: "plain_held", CAPTURED: "plain_captured", BLUE: "torch_blue_held"}


@dataclass(frozen=True)
class Bound:
    """Ratio of the times of two variants, with its goal on an H100 or H200.

    Attributes
    ----------
    what, above, below
        Description; labels of the variants whose times are divided.
    goal, at_least
        The goal, and whether it is a lower bound.
    workloads
        Workloads that the goal is set for.
    """

    what: str
    above: str
    below: str
    goal: float
    at_least: bool
    workloads: tuple[str, ...]

    def met(self, value: float) -> bool:
        """Whether a ratio reaches the goal."""
        return value >= self.goal if self.at_least else value <= self.goal


BOUNDS = (
    Bound("torch_blue, vmapped, Monte Carlo KL / step", BLUE, CHOSEN, 3.0, True, USUAL[:1]),
    Bound("step / S plain passes, batched the best way", CHOSEN, PLAIN, 1.15, False, USUAL[:1]),
    Bound("step / one plain pass of S-fold work", CHOSEN, CAPTURED, 2.0, False, USUAL[1:]),
)
MEMORY = Bound("peak memory, one sample at a time / S = 1", LOOP, SINGLE, 1.2, False, USUAL)


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


def experiment(
    name: str,
    folder: Path,
    steps: int,
    settings: tuple[str, ...] = (),
    data: str = "synthetic",
    small: bool = False,
) -> Experiment:
    """Return the experiment of a workload, or of a perceptron of :data:`CASES`.

    Parameters
    ----------
    folder
        An empty folder for the configuration and data of a perceptron.
    """
    if name in CASES:
        case = CASES[name]
        path, _ = case.write(folder)
        size = Size(case.samples, case.samples, case.batch, case.batch, steps)
        return Experiment(
            name, ScalingWorkload(str(path), size, size), size, "fixed", settings, None
        )
    found = find(name)
    size = replace(found.small if small else found.full, steps=steps)
    if name == USUAL[0]:  # the goals are set for this precision
        size = replace(size, settings=(*size.settings, 'training.precision="bfloat16"'))
        size = replace(size, preset="small") if small else size
    return Experiment(name, found, size, "fixed", settings, data)


def variants(
    experiment: Experiment, samples: int, batch: int, ranks: int, device: str = "cuda"
) -> list[Variant]:
    """Return the variants: chunks of several sizes, the other precision, several ranks (if there is
    an MPI), a single sample, and the baselines."""
    one = ScalingPoint(1, "alone", 1, samples, batch)
    several = ScalingPoint(ranks, "sampling", ranks, samples, batch)
    single = ScalingPoint(1, "alone", 1, 1, batch)
    chosen = experiment.variant(one, label=CHOSEN)
    config = configuration.load(chosen.config, chosen.settings, preset=chosen.preset)
    other = "float32" if config.training.precision == "bfloat16" else "bfloat16"
    by_one, at_once = "method.samples_per_pass=1", f"method.samples_per_pass={samples}"
    made = [
        chosen,
        _with(experiment.variant(one, label=LOOP), by_one),
        _with(experiment.variant(one, label=f"{samples} samples at once"), at_once),
        _with(experiment.variant(one, label=f"in {other}"), f'training.precision="{other}"'),
    ]
    if 1 < ranks <= samples and can_start_ranks():
        shared = experiment.variant(several, label=f"{ranks} ranks on the device, by MPI")
        made.append(_with(shared, 'parallel.collectives="mpi"'))
    made.append(_with(experiment.variant(single, label=SINGLE), by_one))
    for label, name in BASELINES.items():
        if label != BLUE or config.method.name == "mean_field":
            made.append(experiment.variant(one, name, label=label))
    return [_with(variant, f'parallel.device="{device}"') for variant in made]


def can_start_ranks() -> bool:
    """Whether this machine has an MPI that starts several ranks."""
    return (shutil.which("mpirun") or shutil.which("mpiexec")) is not None


def _with(variant: Variant, *settings: str) -> Variant:
    return replace(variant, settings=(*variant.settings, *settings))


def measure(
    experiment: Experiment,
    samples: int,
    batch: int | None,
    ranks: int,
    rounds: int,
    device: str = "cuda",
) -> list[dict[str, Any]]:
    """Measure all variants in turn and return their records."""
    chosen = variants(experiment, samples, batch or experiment.size.batch, ranks, device)
    return versus.measure(experiment, chosen, rounds)


def bounds(workload: str, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each bound of a workload.

    Returns
    -------
    list
        ``what``, ``ratio``, ``min``, ``max`` and ``goal``; ``met`` is None if no GPU was used.
    """
    by = {r["label"]: r for r in found}
    rows = []
    for bound in BOUNDS:
        if workload in bound.workloads and bound.above in by and bound.below in by:
            rows.append((bound, versus.ratio(bound.what, by[bound.above], by[bound.below])))
    memory = peak_mb(by[LOOP]) / peak_mb(by[SINGLE])
    rows.append((MEMORY, {"what": MEMORY.what, "ratio": memory, "min": memory, "max": memory}))
    on_gpu = by[CHOSEN]["device"] == "cuda"
    return [
        row
        | {
            "goal": f"{'>=' if bound.at_least else '<='} {bound.goal:g}",
            "met": bound.met(row["ratio"]) if on_gpu else None,
        }
        for bound, row in rows
    ]


def peak_mb(record: dict[str, Any]) -> float:
    """Return the peak memory of all ranks of a record, in MiB: on the GPU, if it used one."""
    return float(
        sum(record["peak_gpu_mb"] if record["device"] == "cuda" else record["peak_rss_mb"])
    )


def where(record: dict[str, Any]) -> str:
    """Return the precision, card, driver and date of a record; the processor without a GPU."""
    machine = record["machine"]
    device = machine["cpu"]
    if record["device"] == "cuda":
        device = f"{machine['gpu']}, driver {machine['driver'] or 'unknown'}"
    return (
        f"{record['precision']}, {device}, torch {record['versions']['torch']}, "
        f"{record['date'][:10]}"
    )


def notes(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return how the plain passes were made: the fastest way, and whether a graph was captured."""
    by = {r["label"]: r for r in found}
    ways = ", ".join(f"{name} {1e3 * t:.4g} ms" for name, t in by[PLAIN]["ways"].items())
    graph = "captured in a CUDA graph" if by[CAPTURED]["captured"] else "not captured: no GPU"
    return [f"{PLAIN}: {by[PLAIN]['way']} ({ways})", f"{CAPTURED}: {graph}"]
