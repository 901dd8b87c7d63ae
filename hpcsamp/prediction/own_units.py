"""Scale windows of several series, which are passed in Python in the units of the series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.ingest.in_python import unmasked
from hpcsamp.run.trained import Trained
from hpcsamp.spelling import suggest
from hpcsamp.tasks.series import scaled_series


def in_own_units(
    x: Any, series: Sequence[str] | str | None, trained: Trained
) -> tuple[Any, np.ndarray | None]:
    """Scale windows by the statistics of their series, as ``hpcsamp ingest series`` does.

    Parameters
    ----------
    x
        ``(n, *shape)`` windows, or one window, in the units of the series. If a window has several
        rows, the first one is the target; it is replaced where the second one (known) is 0.
    series
        Name of the series of each window, or of all of them.

    Returns
    -------
    x, of
        Scaled windows, float64, and the index of the series of each; ``x`` itself and None if the
        run's set does not have several series.

    Raises
    ------
    DataError
        If names are missing, unknown or not needed, or their number is not that of the windows.
    """
    of = scaled_series(trained.manifest, np.empty(0))
    if of is None:
        if series is not None:
            raise DataError(
                "series: the training set of the run does not have several series, so no names of "
                "series are needed"
            )
        return x, None
    several = f"the training set of the run has {len(of.names)} series"
    if series is None:
        raise DataError(
            f"{several}, each scaled by its own mean and standard deviation: name the series of "
            f"the items, predict(x, series=[{of.names[0]!r}, ...])"
        )
    shape = tuple(trained.manifest.arrays["x"].shape)
    x = x["x"] if isinstance(x, Mapping) and set(x) == {"x"} else x
    try:
        values = np.array(unmasked("x", x), np.float64)
    except (TypeError, ValueError):
        return x, np.zeros(0, np.int64)  # refused as for any other run
    if values.shape[-len(shape) :] != shape or values.ndim > len(shape) + 1:
        return x, np.zeros(0, np.int64)  # refused with both shapes
    windows = values.reshape(-1, *shape)
    names = [series] * len(windows) if isinstance(series, str) else [str(name) for name in series]
    for name in names:
        if name not in of.names:
            raise DataError(
                f"{several}, but none is called {name!r}{suggest(name, list(of.names))}: "
                f"{', '.join(of.names[:5])}"
            )
    if len(names) != len(windows):
        raise DataError(f"series has {len(names)} names, but x has {len(windows)} windows")
    place = np.asarray([of.names.index(name) for name in names], np.int64)
    mean, std = of.mean[place, None], of.std[place, None]
    if len(shape) == 1:
        return ((windows - mean) / std).reshape(values.shape), place
    fill = np.asarray(trained.manifest.source["series"].get("fill", [0.0] * len(of.names)))
    target = (windows[:, 0] - mean) / std
    windows[:, 0] = np.where(windows[:, 1] > 0, target, fill[place, None])
    return windows.reshape(values.shape), place
