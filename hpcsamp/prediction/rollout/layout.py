"""Axes, coordinates and units of a forecast file, in CF conventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcsamp.run.rollout.channels import Channels
from hpcsamp.run.rollout.clock import Clock
from hpcsamp.tasks.layout import ITEM, FileLayout, FileVariable
from hpcsamp.tasks.units import Units

FORECAST = "forecast"
SINCE = "seconds since 1970-01-01 00:00:00"
STANDARD = {"latitude": "latitude", "longitude": "longitude"}


def forecast_layout(
    channels: Channels,
    clock: Clock,
    units: Units,
    count: int,
    members: int,
    steps: int,
    dtype: str,
    attributes: Mapping[str, Any] | None = None,
) -> FileLayout:
    """Lay out a forecast: ``(init_time, member, lead_time, variable, *grid)``.

    The first axis is ``index``, the position in the split, if the dataset has no times. Lead times
    are hours, or steps if the dataset does not state the length of a step.

    Parameters
    ----------
    count, members, steps
        Number of initial states, members and lead times.
    """
    scales: dict[str, FileVariable] = {}
    first = ITEM if clock.times is None else "init_time"
    if clock.times is None:
        scales[first] = FileVariable(
            (first,), "<i8", "", "position in the split", np.arange(count, dtype="<i8")
        )
    else:
        since = clock.times[:count].astype("datetime64[s]").astype("<i8")
        scales[first] = FileVariable(
            (first,), "<i8", SINCE, "time of the initial state", since,
            standard_name="forecast_reference_time",
        )  # fmt: skip
    scales["member"] = FileVariable(
        ("member",), "<i8", "1", "member, which is a weight sample",
        np.arange(members, dtype="<i8"), standard_name="realization",
    )  # fmt: skip
    leads = np.arange(1, steps + 1)
    hours = None if clock.step is None else leads * (clock.step / np.timedelta64(1, "h"))
    scales["lead_time"] = FileVariable(
        ("lead_time",), "<i8" if hours is None else "<f8", "1" if hours is None else "hours",
        "steps since the initial state" if hours is None else "time since the initial state",
        leads.astype("<i8") if hours is None else hours, standard_name="forecast_period",
    )  # fmt: skip
    names = np.asarray(channels.variables, object)
    scales["variable"] = FileVariable(("variable",), "O", "", "predicted variable", names)
    for axis in channels.axes:
        scales[axis.name] = FileVariable(
            (axis.name,), "<f8", axis.units, "", axis.values,
            standard_name=STANDARD.get(axis.name, ""),
        )  # fmt: skip
    unit = "" if units.mixed else units.name
    variables = {
        "variable_units": FileVariable(
            ("variable",), "O", "", "units of each variable", np.asarray(units.by_row, object)
        ),
        FORECAST: FileVariable(tuple(scales), dtype, unit, "state of each member at a lead time"),
    }
    return FileLayout(scales, variables, {"Conventions": "CF-1.11", **(attributes or {})})
