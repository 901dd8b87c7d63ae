"""List all valid grids of a number of ranks, and find the best one and its limiting factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcsamp.errors import UsageError
from hpcsamp.grid import plan_grid, share_samples
from hpcsamp.names import Growth
from hpcsamp.planning.machine import Machine
from hpcsamp.planning.model import NodeLayout, StepPrediction, one_rank, predict
from hpcsamp.planning.rates import Rates
from hpcsamp.planning.workload import Workload


@dataclass(frozen=True)
class CandidateGrid:
    """A candidate grid and its predicted time, memory and speed-up.

    Attributes
    ----------
    speed_up
        Speed-up of an epoch ``S(p) = T1(n) / Tp(n)`` (section 6 of the paper); ``p E(p)`` if the
        number of samples or the batch grows with the ranks.
    efficiency
        ``speed_up / p``; ``E(p) = T1(n) / Tp(n p)`` if the work grows with the ranks.
    memory
        Bytes per rank; None if memory was not requested.
    fits
        Whether the memory of the device is large enough.
    """

    prediction: StepPrediction
    speed_up: float
    efficiency: float
    memory: float | None = None
    fits: bool = True


def layouts(
    ranks: int, per_node: int, samples: int, batch: int, models: Sequence[int] = (1,)
) -> list[NodeLayout]:
    """List all grids for which P * M divides the ranks, ``P <= S``, and D divides the batch.

    S need not be divisible by P. The list ranges from data parallelism (P = 1) to sampling
    parallelism (D = 1), for each size ``models`` of the model axis that the run supports.

    Raises
    ------
    UsageError
        If there is no valid grid; the message contains the sizes that do not fit together.
    """
    found = [
        NodeLayout(p, ranks // m // p, per_node, m)
        for m in models
        for p in _divisors(ranks // m, samples)
        if ranks % m == 0 and batch % (ranks // m // p) == 0
    ]
    if not found:
        m = max(m for m in models if ranks % m == 0)
        largest = max(_divisors(ranks // m, samples))
        least = ranks // m // largest
        of_model = f" of M = {m} model ranks" if m > 1 else ""
        raise UsageError(
            f"no grid of {ranks} ranks: with S = {samples} samples a sample group has at most "
            f"P = {largest} ranks{of_model}, so at least D = {least} data groups, "
            f"and a batch of {batch} items does not split over {least}; "
            f"change --batch to a multiple of {least}, --samples or --nodes"
        )
    return found


def _divisors(ranks: int, most: int) -> list[int]:
    return [p for p in range(1, min(ranks, most) + 1) if ranks % p == 0]


def check(layout: NodeLayout, samples: int) -> None:
    """Check that :func:`hpcsamp.grid.plan_grid` accepts this grid and its samples.

    Raises
    ------
    UsageError
        If :func:`hpcsamp.grid.plan_grid` or :func:`~hpcsamp.grid.share_samples` raises it.
    """
    nodes = [f"node{rank // layout.per_node}" for rank in range(layout.ranks)]
    grid = plan_grid(nodes, layout.sample_size, layout.model_size)
    share_samples(samples, grid.sample_size, 0)


def loaded(work: Workload, ranks: int, mode: Growth) -> Workload:
    """Return the work on more ranks: unchanged, or with a batch or samples that grow with them."""
    if mode == "growing":
        return work.scaled(batch=work.batch * ranks)
    if mode == "proportional":
        return work.scaled(samples=work.samples * ranks)
    return work


def judge(
    work: Workload,
    layout: NodeLayout,
    machine: Machine,
    rates: Rates,
    mode: Growth = "fixed",
    memory: Callable[[NodeLayout, Workload], float] | None = None,
) -> CandidateGrid:
    """Predict a grid and compare it with one rank."""
    ranks = layout.ranks
    on_ranks = loaded(work, ranks, mode)
    found = predict(on_ranks, layout, machine, rates)
    one = one_rank(work, machine, rates).seconds
    grown = 1 if mode == "fixed" else ranks  # ratio of the work on p ranks to that on one
    speed_up = grown * one / found.seconds
    needed = memory(layout, on_ranks) if memory else None
    return CandidateGrid(
        found,
        speed_up,
        speed_up / ranks,
        needed,
        needed is None or needed <= machine.device.memory,
    )


def splits(
    work: Workload,
    ranks: int,
    per_node: int,
    machine: Machine,
    rates: Rates,
    mode: Growth = "fixed",
    memory: Callable[[NodeLayout, Workload], float] | None = None,
) -> list[CandidateGrid]:
    """Predict all valid grids, sorted: grids that fit into memory first, then by speed."""
    on_ranks = loaded(work, ranks, mode)
    found = [
        judge(work, layout, machine, rates, mode, memory)
        for layout in layouts(ranks, per_node, on_ranks.samples, on_ranks.batch, work.model_sizes)
    ]
    return sorted(found, key=lambda s: (not s.fits, s.prediction.seconds))


WORDS = {
    "arithmetic": "compute (arithmetic)",
    "memory bandwidth": "compute (memory bandwidth)",
    "launches": "latency (of launching operations)",
    "measured compute": "compute",
    "network": "the network's bandwidth",
    "latency": "latency of the exchanges",
    "feed": "the feed",
    "optimiser": "the optimiser",
    "waiting": "waiting for the slowest rank",
}


def limits(split: CandidateGrid) -> dict[str, float]:
    """Fraction of the step that each limiting factor takes, largest first."""
    shares: dict[str, float] = {}
    whole = split.prediction.seconds
    for phase in split.prediction.phases:
        rest = phase.seconds - phase.latency
        by = "network" if phase.latency and rest else phase.by
        shares[WORDS[by]] = shares.get(WORDS[by], 0.0) + rest / whole
        if phase.latency:
            late = WORDS["latency"]
            shares[late] = shares.get(late, 0.0) + phase.latency / whole
    return dict(sorted(shares.items(), key=lambda s: -s[1]))


def named(layout: NodeLayout) -> str:
    """Format a grid with the names of its axes, e.g. ``D x P = 2 x 4``."""
    return f"D x P{' x M' * (layout.model_size > 1)} = {layout}"


def verdict(ranked: Sequence[CandidateGrid]) -> str:
    """Describe the best grid and its limiting factor in one sentence."""
    best = ranked[0]
    p = best.prediction
    if not best.fits:
        least = min(ranked, key=lambda s: s.memory or 0)
        assert least.memory is not None
        return (
            f"memory limits: no grid fits; the smallest, {named(least.prediction.layout)}, needs "
            f"{least.memory / 1e9:.1f} GB per rank (hpcsamp models lists settings that lower it)"
        )
    (first, part), *others = limits(best).items()
    text = (
        f"best: {named(p.layout)}, limited by {first} ({part:.0%} of the step"
        + (f"; next {others[0][0]}, {others[0][1]:.0%}" if others and others[0][1] > 0.005 else "")
        + ")"
    )
    idle = 1 - p.work.samples / (p.samples * p.layout.sample_size)
    if idle > 0.01:
        text += (
            f"; with S = {p.work.samples} over P = {p.layout.sample_size}, ranks are idle for "
            f"{idle:.0%} of the passes"
        )
    faster = [s for s in ranked if not s.fits and s.prediction.seconds < p.seconds and s.memory]
    if faster:
        s = min(faster, key=lambda s: s.prediction.seconds)
        assert s.memory is not None
        text += (
            f"; memory limits the choice: {named(s.prediction.layout)} would take "
            f"{s.prediction.seconds:.3g} s, but needs {s.memory / 1e9:.1f} GB per rank"
        )
    return text
