"""Convert values from the units in which a network computes to the units of the target.

If a dataset standardises its targets, errors, spreads and predictions are reported in the units of
the data: multiplied by the standard deviation of each row (horizon, variable), plus its mean. If
rows are different quantities, metrics over all rows stay in standard deviations, since kelvins and
pascals have no common mean; metrics of one row have the unit of that row. If a set has several
series, each item is converted to the units of its series (:class:`~hpcsamp.tasks.series.Scaled`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hpcsamp.data import Dataset
from hpcsamp.data.manifest import units_by_name
from hpcsamp.tasks.coordinates import Coordinates
from hpcsamp.tasks.series import Scaled, scaled_series

STANDARD = "standard deviations"


@dataclass(frozen=True)
class Units:
    """Scale, shift and units of the targets of one dataset.

    Attributes
    ----------
    scale, shift
        ``(rows,)`` float64: a value is ``scale * computed + shift``. They are 1 and 0 if the
        targets are not standardised. ``(B, rows)`` for items of several series,
        :meth:`of_items`.
    typical
        ``(rows,)`` standard deviation of the target in computed units.
    mixed
        Whether rows are different quantities.
    name
        Unit of the target; :attr:`overall` is the unit of metrics over all rows.
    by_row
        Unit of every row.
    axes
        Number of axes of an item.
    series
        Series of the items, if each series was scaled by its own mean and standard deviation.
    """

    scale: np.ndarray
    shift: np.ndarray
    typical: np.ndarray
    mixed: bool
    name: str
    by_row: list[str]
    axes: int
    series: Scaled | None = None

    @property
    def overall(self) -> str:
        """Unit of errors and spreads over all rows."""
        return STANDARD if self.mixed and not np.all(self.scale == 1) else self.name

    def of_items(self, index: np.ndarray) -> Units:
        """Return the units of some items; the same for all unless there are several series."""
        if self.series is None:
            return self
        own = self.series.take(index)
        mean, std = own.mean[own.of, None], own.std[own.of, None]
        return replace(self, scale=std * self.scale, shift=std * self.shift + mean, series=own)

    def value(self, computed: Tensor) -> Tensor:
        """Convert values ``(B, ...)`` to the units of the target, float64."""
        return computed.double() * self._shaped(self.scale, computed) + self._shaped(
            self.shift, computed
        )

    def spread(self, computed: Tensor) -> Tensor:
        """Convert standard deviations ``(B, ...)`` to the units of the target, float64."""
        return computed.double() * self._shaped(self.scale, computed)

    def relative(self, computed: Tensor) -> Tensor:
        """Divide standard deviations ``(B, ...)`` by those of the target, float64."""
        return computed.double() / self._shaped(self.typical, computed)

    def _shaped(self, rows: np.ndarray, like: Tensor) -> Tensor:
        shape = (*rows.shape[:-1], -1, *[1] * (self.axes - 1)) if self.axes else ()
        return torch.as_tensor(rows.reshape(shape), device=like.device)


#: Units of values without a known unit or scale.
NO_UNITS = Units(np.ones(1), np.zeros(1), np.ones(1), False, "", [""], 0)


def units_of(dataset: Dataset, coordinates: Coordinates, target: str = "y") -> Units:
    """Return the units of one target of a split."""
    spec, stats = dataset.manifest.arrays[target], dataset.manifest.stats.get(target)
    rows = spec.shape[0] if spec.shape else 1
    std = np.ones(rows) if stats is None else np.broadcast_to(np.asarray(stats.std), (rows,))
    std = np.where(std > 0, std, 1.0)
    mean = np.zeros(rows) if stats is None else np.broadcast_to(np.asarray(stats.mean), (rows,))
    standardised = dataset.targets[target].normalize and stats is not None
    of = coordinates.per_item.get("series")
    series = scaled_series(dataset.manifest, None if of is None else of[0])
    unit = spec.units if series is None else ""
    first = coordinates.axes[0] if coordinates.axes else None
    mixed = first is not None and first.named
    each = [unit] * rows
    if mixed and first is not None:
        each = units_by_name(unit, [str(name) for name in first.values])
    return Units(
        scale=std.astype(float) if standardised else np.ones(rows),
        shift=mean.astype(float) if standardised else np.zeros(rows),
        typical=np.ones(rows) if standardised else std.astype(float),
        mixed=mixed,
        name=unit,
        by_row=each,
        axes=len(spec.shape),
        series=series,
    )
