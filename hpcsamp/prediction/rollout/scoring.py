"""Score a rollout while it runs; ranks divide the items and the latitudes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import share, together
from hpcsamp.metrics.forecasts import (
    ForecastSums,
    check_members,
    item_scores,
    item_sums,
    region_weights,
)
from hpcsamp.prediction.rollout.climatology import climatology
from hpcsamp.prediction.rollout.march import March
from hpcsamp.prediction.rollout.reading import read_items
from hpcsamp.tasks.outputs import sample_counts


class Scoring:
    """Compare the states of a rollout with those of a dataset. Collective over the world.

    The observed state at a lead time is the target of the item whose input is one step earlier, in
    the same split; lead times without such an item are not scored, nor are points at which it is
    missing (NaN).

    Raises
    ------
    UsageError
        If there are fewer than 2 members, or the fields have no latitude and longitude.
    """

    def __init__(self, march: March, dataset: Dataset, steps: int) -> None:
        self.march, self.dataset, p = march, dataset, march.posterior
        with together(p.topology.world):
            check_members(p.samples)
            axes = march.channels.axes
            if [a.name for a in axes] != ["latitude", "longitude"]:
                names = ", ".join(a.name for a in axes)
                raise UsageError(f"--scores needs fields on latitude and longitude, not on {names}")
        self.latitude = axes[0].values.astype(float)
        area = march.view.coordinates.area_weights()
        flat = np.ones(len(self.latitude)) if area is None else area.ravel()
        self.areas = region_weights(self.latitude, flat)
        self.climatology = climatology(p, march.view.units, list(march.channels.variables))
        variables = len(march.channels.variables)
        self.sums = ForecastSums(steps, variables, p.samples, len(axes[1].values))
        self.counts = sample_counts(p.method, p.samples, p.collectives)

    def update(
        self, lead: int, x: Tensor, index: np.ndarray, own: np.ndarray, state: Tensor
    ) -> None:
        """Add the states ``(s, B, V, H, W)`` of this rank's members at a lead time. Collective.

        Parameters
        ----------
        x, index
            Initial inputs, and the positions of their items.
        own
            Rows that are scored.
        """
        p, group = self.march.posterior, self.march.posterior.collectives
        later = index if lead == 1 else self.march.clock.item_at(lead - 1)[index]
        keep = own[later[own] >= 0]
        rows = share(len(self.latitude), group.sample_size, group.sample_rank)
        part = slice(rows.start, rows.stop)
        with together(p.topology.world):
            observed = self._observed(later[keep], state)[:, :, part]
            initial = self._initial(x, keep)[:, :, part]
        clock, normal = self.march.clock, self.climatology
        times = clock.at(index[keep], lead) if clock.known else None
        mean = normal.mean(times, len(keep), rows)
        for v in range(state.shape[2]):
            mine = state[:, keep, v].contiguous()
            whole = mine
            if group.sample_size > 1:
                whole = group.gather(mine, self.counts, "sample")
            members = whole[:, :, part].cpu().numpy()
            here = mean[:, v], normal.std[v, part]
            self.sums.add(
                lead - 1, v, members, observed[:, v], initial[:, v], *here, self.areas[:, part]
            )
            each = torch.from_numpy(
                item_sums(members, observed[:, v], here[0], self.areas[0, part])
            )
            if group.sample_size > 1:
                group.sum_(each, "sample")
            if group.sample_rank == 0:
                self.sums.add_items(lead - 1, v, *item_scores(each.numpy(), p.samples))

    def _observed(self, items: np.ndarray, state: Tensor) -> np.ndarray:
        if not len(items):
            return np.zeros((0, *state.shape[2:]))
        y = read_items(self.march.posterior, self.dataset, items).y
        found: np.ndarray = self.march.view.units.value(y).cpu().numpy()
        return found

    def _initial(self, x: Tensor, keep: np.ndarray) -> np.ndarray:
        at, scale = self.march.channels.state, self.march.scale
        known = x[torch.from_numpy(keep)][:, at].double() * scale.std[at] + scale.mean[at]
        found: np.ndarray = known.cpu().numpy()
        return found

    def result(self) -> dict[str, Any]:
        """Sum over all ranks and return the scores with their axes. Collective."""
        world = self.march.posterior.topology.world
        if world.size > 1:
            for array in self.sums.arrays:
                array[...] = world.allreduce(array)
        clock = self.march.clock
        hours = None if clock.step is None else clock.step / np.timedelta64(1, "h")
        leads = np.arange(1, self.sums.leads + 1)
        return {
            "variables": list(self.march.channels.variables),
            "units": self.march.view.units.by_row,
            "lead_time": (leads if hours is None else leads * hours).tolist(),
            "lead_unit": "steps" if hours is None else "hours",
            "members": self.sums.members,
            **_listed(self.sums.result()),
        }


def _listed(found: dict[str, Any]) -> dict[str, Any]:
    return {
        k: _listed(v) if isinstance(v, dict) else np.asarray(v).tolist() for k, v in found.items()
    }
