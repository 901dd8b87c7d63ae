"""The layout of a predictions file: the arrays stored for every item of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcsamp.tasks.base import Task
from hpcsamp.tasks.layout import ITEM, FileLayout, FileVariable
from hpcsamp.tasks.views import View

NAMED = 200
"""Largest number of series that are named in the description of their index."""


def layout(
    task: Task,
    view: View,
    count: int,
    *,
    dtype: str = "<f4",
    quantiles: Sequence[float] = (),
    samples: int = 0,
    values: bool = True,
    attributes: Mapping[str, Any] | None = None,
) -> FileLayout:
    """Lay out the arrays of a predictions file for ``count`` items.

    Parameters
    ----------
    dtype, quantiles, samples, values
        See :meth:`Task.variables`.
    attributes
        Attributes of the file.
    """
    scales = {
        ITEM: FileVariable(
            (ITEM,), "<i8", "", "position in the split", np.arange(count, dtype="<i8")
        )
    }
    of = view.units.series
    names = () if of is None else of.names[:NAMED]
    described = {"series": ", ".join(f"{k}: {name}" for k, name in enumerate(names))}
    known = {
        name: FileVariable((ITEM,), "<f8", unit, described.get(name, ""), v)
        for name, (v, unit) in view.coordinates.per_item.items()
    }
    axes, made = task.variables(view, dtype=dtype, levels=quantiles, samples=samples, values=values)
    return FileLayout(scales | axes, known | made, dict(attributes or {}))
