"""Every legal grid of some ranks, the best of them, and what limits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcsamp.errors import UsageError
from hpcsamp.grid import plan_grid, share_samples
from hpcsamp.names import Growth
from hpcsamp.planning.machine import Machine
from hpcsamp.planning.model import Layout, Prediction, one_rank, predict
from hpcsamp.planning.rates import Rates
from hpcsamp.planning.workload import Workload


@dataclass(frozen=True)
class Split:
    """A grid with what is said of it.

    Attributes
    ----------
    speed_up
        ``S(p) = T1(n) / Tp(n)`` of an epoch (section 6 of the paper); with S growing with the
        ranks ``p E(p)``.
    efficiency
        ``speed_up / p``; with S growing with the ranks ``E(p) = T1(n) / Tp(n p)``.
    memory
        Bytes of a rank, None if it was not asked for.
    fits
        Whether the device has as much.
    """

    prediction: Prediction
    speed_up: float
    efficiency: float
    memory: float | None = None
    fits: bool = True


def layouts(
    ranks: int, per_node: int, samples: int, batch: int, models: Sequence[int] = (1,)
) -> list[Layout]:
    """All grids that a run would accept: P * M divides the ranks, ``P <= S``, D divides the batch.

    S need not divide by P. From data parallelism (P = 1) to sampling parallelism (D = 1), for each
    of the sizes ``models`` of a model axis that the run may have.

    Raises
    ------
    UsageError
        If there is none, naming the numbers that do not go together.
    """
    found = [
        Layout(p, ranks // m // p, per_node, m)
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


def check(layout: Layout, samples: int) -> None:
    """Whether the package's own planner makes the same grid of it (it raises if not).

    Raises
    ------
    UsageError
        As :func:`hpcsamp.grid.plan_grid` and :func:`~hpcsamp.grid.share_samples`.
    """
    nodes = [f"node{rank // layout.per_node}" for rank in range(layout.ranks)]
    grid = plan_grid(nodes, layout.sample_size, layout.model_size)
    share_samples(samples, grid.sample_size, 0)


def loaded(work: Workload, ranks: int, mode: Growth) -> Workload:
    """The run on some ranks: as it is, with a batch or samples that grow with them."""
    if mode == "growing":
        return work.scaled(batch=work.batch * ranks)
    if mode == "proportional":
        return work.scaled(samples=work.samples * ranks)
    return work


def judge(
    work: Workload,
    layout: Layout,
    machine: Machine,
    rates: Rates,
    mode: Growth = "fixed",
    memory: Callable[[Layout, Workload], float] | None = None,
) -> Split:
    """A grid: predicted, and compared with one rank."""
    ranks = layout.ranks
    on_ranks = loaded(work, ranks, mode)
    found = predict(on_ranks, layout, machine, rates)
    one = one_rank(work, machine, rates).seconds
    grown = 1 if mode == "fixed" else ranks  # work of p ranks over that of one
    speed_up = grown * one / found.seconds
    needed = memory(layout, on_ranks) if memory else None
    return Split(
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
    memory: Callable[[Layout, Workload], float] | None = None,
) -> list[Split]:
    """All legal grids, those that fit first, the fastest first."""
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


def limits(split: Split) -> dict[str, float]:
    """Part of the step that each limit takes, largest first."""
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


def named(layout: Layout) -> str:
    """A grid with the names of its axes, e.g. ``D x P = 2 x 4``."""
    return f"D x P{' x M' * (layout.model_size > 1)} = {layout}"


def verdict(ranked: Sequence[Split]) -> str:
    """One sentence: the best grid and what limits it."""
    best = ranked[0]
    p = best.prediction
    if not best.fits:
        least = min(ranked, key=lambda s: s.memory or 0)
        assert least.memory is not None
        return (
            f"memory limits: no split fits; the least, {named(least.prediction.layout)}, needs "
            f"{least.memory / 1e9:.1f} GB a rank (hpcsamp models shows what lowers it)"
        )
    (first, part), *others = limits(best).items()
    told = (
        f"best: {named(p.layout)}, limited by {first} ({part:.0%} of the step"
        + (f"; next {others[0][0]}, {others[0][1]:.0%}" if others and others[0][1] > 0.005 else "")
        + ")"
    )
    idle = 1 - p.work.samples / (p.samples * p.layout.sample_size)
    if idle > 0.01:
        told += (
            f"; S = {p.work.samples} over P = {p.layout.sample_size} leaves ranks idle "
            f"{idle:.0%} of the passes"
        )
    faster = [s for s in ranked if not s.fits and s.prediction.seconds < p.seconds and s.memory]
    if faster:
        s = min(faster, key=lambda s: s.prediction.seconds)
        assert s.memory is not None
        told += (
            f"; memory limits the choice: {named(s.prediction.layout)} would take "
            f"{s.prediction.seconds:.3g} s, but needs {s.memory / 1e9:.1f} GB a rank"
        )
    return told
