"""Metrics kept as sums: accumulate on every rank, add the state vectors, compute once.

Each metric keeps its sufficient statistics (counts, sums, sums per bin) in one flat float64
vector, ``state``. Adding the vectors of several ranks gives the vector of all their items, so
metrics over a cluster cost one small sum and equal those of a single process. Items of weight 0
(the padding of a last batch) are ignored, whatever values they have.

torchmetrics defines the same metrics, and the tests compare with it. It is not used here because it
has no item weights, accumulates in float32, and keeps every prediction for its calibration error,
for which 45 sums suffice.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpcsamp.errors import DivergedError, HpcsampError


class Sums:
    """Named sums and named tables of sums, stored in one float64 vector.

    Parameters
    ----------
    scalars
        Names of single sums; ``"items"`` must be among them.
    tables
        Shapes of tables by name.

    Attributes
    ----------
    state
        Flat float64 vector on the CPU. Add the vectors of other ranks to it in place.
    """

    def __init__(self, scalars: tuple[str, ...], tables: Mapping[str, tuple[int, ...]]) -> None:
        self._scalars, self._tables = scalars, dict(tables)
        size = len(scalars) + sum(torch.Size(shape).numel() for shape in self._tables.values())
        self.state = torch.zeros(size, dtype=torch.float64)

    def add(self, sums: Mapping[str, Tensor], tables: Mapping[str, Tensor]) -> None:
        """Add one batch: 0-d tensors and tables by name; names that are left out stay unchanged."""
        some = next(iter(sums.values()))
        zero = some.new_zeros((), dtype=torch.float64)
        parts = [torch.stack([sums.get(name, zero).double() for name in self._scalars])]
        for name, shape in self._tables.items():
            table = tables.get(name)
            parts.append(
                zero.expand(torch.Size(shape).numel()) if table is None else table.flatten()
            )
        self.state += torch.cat(parts).cpu()

    def read(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return the sums and the tables by name.

        Raises
        ------
        HpcsampError
            If nothing has been accumulated.
        """
        known = len(self._scalars)
        sums = dict(zip(self._scalars, self.state[:known].tolist(), strict=True))
        if not sums["items"] > 0:
            raise HpcsampError(
                "no items to compute metrics from: none were added, or all have weight 0"
            )
        sizes = [torch.Size(shape).numel() for shape in self._tables.values()]
        parts = self.state[known:].split(sizes) if sizes else ()
        tables = {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._tables.items(), parts, strict=True)
        }
        return sums, tables


def item_weights(weight: Tensor | None, target: Tensor) -> Tensor:
    """Return the weights ``(B,)`` in float64; 1 for all items if ``weight`` is None."""
    if weight is None:
        return torch.ones(len(target), dtype=torch.float64, device=target.device)
    return weight.double()


def check_defined(sums: Mapping[str, float]) -> None:
    """Refuse predictions that are NaN; every rank has the same sums, so all ranks raise.

    Raises
    ------
    DivergedError
        If the sum ``undefined``, the number of items with such predictions, is not 0.
    """
    if sums["undefined"] > 0:
        raise DivergedError(
            f"the predictions of {sums['undefined']:.0f} of {sums['count']:.0f} items are not "
            f"finite numbers; look at the inputs of these items, and whether the run has diverged"
        )


def per_bin(which: Tensor, bins: int, *weights: Tensor) -> Tensor:
    """Sum each of ``weights`` ``(n,)`` by bin number ``which`` ``(n,)``: ``(k, bins)``."""
    table = torch.zeros(len(weights), bins, dtype=torch.float64, device=which.device)
    return table.index_add_(1, which, torch.stack(weights))
