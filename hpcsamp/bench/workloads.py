"""Workloads of the paper in the sizes of its scaling figures, and in small sizes for two cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcsamp.errors import UsageError
from hpcsamp.names import ScalingMode
from hpcsamp.spelling import suggest

GRIDS = ("sampling", "data", "hybrid")
MODEL = "model"
"""The grid of a single model group: the ranks share neither samples nor data."""


@dataclass(frozen=True)
class Size:
    """Size of a workload.

    Attributes
    ----------
    samples
        Number of weight samples ``S``, if it is fixed.
    per_rank
        Number of weight samples per rank, if the number of samples grows with the ranks.
    batch
        Number of items per step; per rank and step if the batch grows with the ranks.
    proportional_batch
        Number of items per step, if the number of samples grows with the ranks.
    steps
        Number of steps per round; 0 for an epoch.
    settings
        Additional keys of the configuration.
    preset
        Preset of the configuration.
    """

    samples: int
    per_rank: int
    batch: int
    proportional_batch: int
    steps: int
    settings: tuple[str, ...] = ()
    preset: str | None = None


@dataclass(frozen=True)
class ScalingWorkload:
    """A packaged configuration in the size of the paper's figure, and in a small size."""

    config: str
    full: Size
    small: Size


#: Sizes of Figures 4, 9 and 10, and of the mixer, which the paper does not have. Small sizes use
#: the same networks, except for SWIN and the mixer.
WORKLOADS = {
    "vit-cifar10": ScalingWorkload(
        "vit-cifar10",
        Size(16, 1, 256, 1024, 0),
        Size(16, 4, 32, 32, 1, ("data.synthetic.items=1280",)),
    ),
    "mlp-entsoe": ScalingWorkload(
        "mlp-entsoe",
        Size(16, 1, 64, 1024, 0),
        Size(16, 4, 64, 256, 100, ("data.synthetic.items=20000",)),
    ),
    "swin-era5": ScalingWorkload(
        "swin-era5",
        Size(16, 2, 1, 1, 0),
        Size(8, 2, 2, 2, 2, (), "small"),
    ),
    "mixer-era5": ScalingWorkload(
        "mixer-era5",
        Size(16, 1, 1, 1, 4),
        Size(
            4,
            2,
            4,
            4,
            1,
            (
                "model.strip=4",
                "model.width=256",
                "model.blocks=2",
                "method.samples_per_pass=1",
                "data.synthetic.items=20",
                "data.synthetic.grid=[32, 256]",
            ),
        ),
    ),
    "vit-digits": ScalingWorkload(
        "vit-digits",
        Size(16, 1, 64, 64, 0, ('data.synthetic={like="digits", items=1797}',)),
        Size(16, 4, 64, 64, 3, ('data.synthetic={like="digits", items=1797}',)),
    ),
}


def find(name: str) -> ScalingWorkload:
    """Return a workload by name.

    Raises
    ------
    UsageError
        If there is no workload of this name.
    """
    if name not in WORKLOADS:
        raise UsageError(
            f"--workload {name}: choose from {', '.join(WORKLOADS)}{suggest(name, WORKLOADS)}"
        )
    return WORKLOADS[name]


@dataclass(frozen=True)
class ScalingPoint:
    """One configuration of a scaling experiment.

    Attributes
    ----------
    grid
        ``alone`` (one rank), one of :data:`GRIDS`, or :data:`MODEL`.
    sample_size
        ``P``; ``D`` is ``ranks / (P M)``.
    model_size
        ``M``.
    """

    ranks: int
    grid: str
    sample_size: int
    samples: int
    batch: int
    model_size: int = 1

    @property
    def label(self) -> str:
        """Label of the point in tables."""
        parts = f", M = {self.model_size}" if self.model_size > 1 else ""
        return "1 rank" if self.ranks == 1 else f"{self.ranks} ranks, {self.grid}{parts}"

    def settings(self) -> tuple[str, ...]:
        """Keys of the configuration."""
        return (
            f"method.samples={self.samples}",
            f"data.batch={self.batch}",
            f"parallel.samples={self.sample_size}",
            f"parallel.model={self.model_size}",
        )


def points(
    size: Size,
    mode: ScalingMode,
    ranks: Sequence[int],
    grids: Sequence[str],
    models: Sequence[int] = (1,),
) -> tuple[list[ScalingPoint], list[str]]:
    """Return the points of an experiment, smallest first, and the reasons why others are left out.

    One rank is always measured, because all points are compared with it. On one rank all grids are
    the same, and a hybrid grid needs at least four ranks: ``P`` is the largest power of two up to
    the square root of the number of ranks, as for nodes with several GPUs. On each number of model
    ranks M in ``models``, the grids are those of the model groups; a single group has one grid.
    """
    batch = size.proportional_batch if mode == "proportional" else size.batch
    samples = size.per_rank if mode == "proportional" else size.samples
    found, notes = [ScalingPoint(1, "alone", 1, samples, batch)], []
    for count in sorted({*ranks} - {1}):
        s = samples * count if mode == "proportional" else samples
        b = batch * count if mode == "fixed-growing-batch" else batch
        for m in models:
            groups, rest = divmod(count, m)
            if rest or not groups:
                notes.append(f"{count} ranks, M = {m}: {m} model ranks do not divide {count}")
                continue
            for grid in grids if groups > 1 else (MODEL,):
                own = {"sampling": groups, "hybrid": _hybrid(groups)}.get(grid, 1)
                point = ScalingPoint(count, grid, own, s, b, m)
                why = _fault(groups, own, s, b, grid)
                if why:
                    notes.append(f"{point.label}: {why}")
                else:
                    found.append(point)
    return found, notes


def _hybrid(ranks: int) -> int:
    own = 1
    while (2 * own) ** 2 <= ranks and ranks % (2 * own) == 0:
        own *= 2
    return own


def _fault(groups: int, own: int, samples: int, batch: int, grid: str) -> str:
    if grid == "hybrid" and own == 1:
        return "a hybrid grid needs several ranks on both axes, i.e. at least four ranks"
    if samples < own:
        return f"S = {samples} samples cannot be split over {own} ranks"
    if batch % (groups // own):
        return f"a batch of {batch} cannot be split evenly over {groups // own} data groups"
    return ""
