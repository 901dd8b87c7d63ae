"""The paper's workloads at the sizes of its scaling figures, and small for two cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcsamp.errors import UsageError
from hpcsamp.names import ScalingMode
from hpcsamp.spelling import suggest

GRIDS = ("sampling", "data", "hybrid")


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes
    ----------
    samples
        ``S`` where it is fixed.
    per_rank
        Samples of a rank where ``S`` grows with the ranks.
    batch
        Items of a step (global; of one rank where the batch grows).
    proportional_batch
        The same where ``S`` grows.
    steps
        Steps of a round; 0 for an epoch.
    settings
        Further keys of the configuration.
    preset
        Of the configuration.
    """

    samples: int
    per_rank: int
    batch: int
    proportional_batch: int
    steps: int
    settings: tuple[str, ...] = ()
    preset: str | None = None


@dataclass(frozen=True)
class Workload:
    """A configuration of the package, full (a figure of the paper) and small."""

    config: str
    full: Size
    small: Size


#: Sizes of Figures 4, 9 and 10. Small ones keep the paper's networks but for the SWIN transformer.
WORKLOADS = {
    "vit-cifar10": Workload(
        "vit-cifar10",
        Size(16, 1, 256, 1024, 0),
        Size(16, 4, 32, 32, 1, ("data.synthetic.items=1280",)),
    ),
    "mlp-entsoe": Workload(
        "mlp-entsoe",
        Size(16, 1, 64, 1024, 0),
        Size(16, 4, 64, 256, 100, ("data.synthetic.items=20000",)),
    ),
    "swin-era5": Workload(
        "swin-era5",
        Size(16, 2, 1, 1, 0),
        Size(8, 2, 2, 2, 2, (), "small"),
    ),
    "vit-digits": Workload(
        "vit-digits",
        Size(16, 1, 64, 64, 0, ('data.synthetic={like="digits", items=1797}',)),
        Size(16, 4, 64, 64, 3, ('data.synthetic={like="digits", items=1797}',)),
    ),
}


def find(name: str) -> Workload:
    """A workload by name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in WORKLOADS:
        raise UsageError(
            f"--workload {name}: there is {', '.join(WORKLOADS)}{suggest(name, WORKLOADS)}"
        )
    return WORKLOADS[name]


@dataclass(frozen=True)
class Point:
    """One configuration of a scaling experiment.

    Attributes
    ----------
    grid
        ``alone`` (one rank), or one of :data:`GRIDS`.
    sample_size
        ``P``; ``D`` is ``ranks / P``.
    """

    ranks: int
    grid: str
    sample_size: int
    samples: int
    batch: int

    @property
    def label(self) -> str:
        """For people."""
        return "1 rank" if self.ranks == 1 else f"{self.ranks} ranks, {self.grid}"

    def settings(self) -> tuple[str, ...]:
        """Keys of the configuration."""
        return (
            f"method.samples={self.samples}",
            f"data.batch={self.batch}",
            f"parallel.samples={self.sample_size}",
        )


def points(
    size: Size, mode: ScalingMode, ranks: Sequence[int], grids: Sequence[str]
) -> tuple[list[Point], list[str]]:
    """The configurations of an experiment, the smallest first, and why others are left out.

    One rank is always measured: everything is compared with it. With one rank all grids are the
    same, and a hybrid needs four ranks at least: ``P`` is the largest power of two up to the root
    of the ranks, as nodes and GPUs of a node would be.
    """
    batch = size.proportional_batch if mode == "proportional" else size.batch
    samples = size.per_rank if mode == "proportional" else size.samples
    found, notes = [Point(1, "alone", 1, samples, batch)], []
    for count in sorted({*ranks} - {1}):
        s = samples * count if mode == "proportional" else samples
        b = batch * count if mode == "fixed-growing-batch" else batch
        for grid in grids:
            own = {"sampling": count, "data": 1, "hybrid": _hybrid(count)}[grid]
            why = _fault(count, own, s, b, grid)
            if why:
                notes.append(f"{count} ranks, {grid}: {why}")
            else:
                found.append(Point(count, grid, own, s, b))
    return found, notes


def _hybrid(ranks: int) -> int:
    own = 1
    while (2 * own) ** 2 <= ranks and ranks % (2 * own) == 0:
        own *= 2
    return own


def _fault(ranks: int, own: int, samples: int, batch: int, grid: str) -> str:
    if grid == "hybrid" and own == 1:
        return "a hybrid needs both axes to have several ranks, so four of them at least"
    if samples < own:
        return f"S = {samples} samples cannot be split over {own} ranks"
    if batch % (ranks // own):
        return f"a batch of {batch} cannot be split evenly over {ranks // own} data groups"
    return ""
