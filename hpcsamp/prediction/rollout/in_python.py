"""Roll out items in memory, or a split of a dataset, and return an ``xarray.Dataset``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpcsamp.data import Batch
from hpcsamp.errors import UsageError
from hpcsamp.prediction.file_attributes import attributes, precision
from hpcsamp.prediction.given import Given, given
from hpcsamp.prediction.in_memory import Predicted, batches_of_given, view_of
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.rollout.forecast import check_steps, march_of, write_all
from hpcsamp.prediction.rollout.layout import FORECAST, forecast_layout
from hpcsamp.prediction.rollout.march import March
from hpcsamp.prediction.rollout.stores import Memory
from hpcsamp.prediction.statistics import estimate
from hpcsamp.run.rollout.clock import Clock, clock_of

if TYPE_CHECKING:
    import xarray as xr


def rollout(
    posterior: Posterior, x: Any, steps: int, times: Any, perturb: float, split: str | None
) -> xr.Dataset:
    """Roll out items with all samples of a posterior in this process; see ``hs.load``.

    Raises
    ------
    DataError, UsageError
        If the items do not have the form that the run needs, or it cannot be rolled out.
    """
    from hpcsamp.prediction.labelled import labelled

    check_steps(steps, perturb)
    items: Given | None = None
    if isinstance(x, str | Path):
        if times is not None:
            raise UsageError("the times are read from the dataset: leave times= out")
        evaluator = posterior.evaluator(posterior.open(x, split))
        try:
            march, count = march_of(posterior, evaluator, perturb), evaluator.dataset.count
            march.check(np.arange(count), steps)
            layout, memory = _prepared(march, count, steps)
            write_all(march, evaluator, count, steps, memory)
        finally:
            evaluator.close()
    else:
        items = given(x, posterior.trained)
        clock = _clock(posterior, times, items.count)
        dataset = posterior.trained.items(items.count)
        march = March(
            posterior, view_of(posterior, dataset, posterior.collectives), clock, None, perturb
        )
        march.check(np.arange(items.count), steps)
        layout, memory = _prepared(march, items.count, steps)
        for batch in _batches(posterior, items):
            for lead, state in march.run(batch.x, batch.index, steps):
                memory.write(batch.index, march.mine, lead, state.transpose(0, 1).cpu().numpy())
    layout.attributes.update(attributes(posterior.facts(), posterior.trained.manifest.uid))
    made = labelled(Predicted(layout, {FORECAST: memory.values}), items)
    return _decoded(made)


def _prepared(march: March, count: int, steps: int) -> tuple[Any, Memory]:
    layout = forecast_layout(
        march.channels, march.clock, march.view.units, count, march.posterior.samples, steps,
        precision(march.posterior),
    )  # fmt: skip
    return layout, Memory(layout)


def _clock(posterior: Posterior, times: Any, count: int) -> Clock:
    of = clock_of(posterior.trained.manifest, {})
    if times is None:
        return of
    try:
        known = np.atleast_1d(np.asarray(times, "datetime64[s]"))
    except (TypeError, ValueError):
        raise UsageError(f"times = {times!r}: one time for each item is needed") from None
    if known.shape != (count,):
        raise UsageError(f"times has shape {known.shape}, but there are {count} items")
    return Clock(known, of.step)


def _batches(posterior: Posterior, items: Given) -> Iterator[Batch]:
    dataset = posterior.trained.items(items.count)
    size = min(posterior.config.evaluation.batch, items.count)
    for number, batch in enumerate(batches_of_given(posterior, dataset, items, size)):
        if number == 0:
            with torch.no_grad():
                estimate(
                    posterior.run, posterior.method, posterior.topology, posterior.collectives,
                    posterior.samples, batch.x, posterior.training_set,
                )  # fmt: skip
        yield batch


def _decoded(made: xr.Dataset) -> xr.Dataset:
    """Convert the numbers of the time axes to datetime64 and timedelta64."""
    if "init_time" in made.coords:
        values = made["init_time"].values.astype("datetime64[s]").astype("datetime64[ns]")
        attributes = {k: v for k, v in made["init_time"].attrs.items() if k != "units"}
        made = made.assign_coords(
            init_time=("init_time" if "init_time" in made.dims else (), values, attributes)
        )
    if made["lead_time"].attrs.get("units") == "hours":
        lead = (made["lead_time"].values * 3600).round().astype("timedelta64[s]")
        attributes = {k: v for k, v in made["lead_time"].attrs.items() if k != "units"}
        made = made.assign_coords(
            lead_time=("lead_time", lead.astype("timedelta64[ns]"), attributes)
        )
    return made
