"""Read the scores of a forecast from a run folder, compare runs, and compute their skill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.errors import UsageError
from hpcsamp.prediction.rollout.forecast import KEPT
from hpcsamp.report.records import RunRecord
from hpcsamp.sealing import text

#: Scores of the tables, and the words for them.
TABLES = {"rmse": "RMSE", "crps_fair": "fair CRPS"}
#: Simple forecasts with which a single run is compared, and their value of each score. The CRPS of
#: a forecast without spread is its absolute error.
REFERENCES = {
    "persistence": {"rmse": "rmse_persistence", "crps_fair": "mae_persistence"},
    "climatology": {"rmse": "rmse_climatology", "crps_fair": "mae_climatology"},
}


@dataclass(frozen=True)
class Forecast:
    """Scores of one forecast, as ``hpcsamp predict --rollout --scores`` has kept them.

    Attributes
    ----------
    run
        The run.
    split
        Name of the scored split.
    table
        Content of ``forecasts/SPLIT.json``.
    """

    run: RunRecord
    split: str
    table: dict[str, Any]

    @property
    def scores(self) -> dict[str, Any]:
        """All scores with their axes."""
        found: dict[str, Any] = self.table["scores"]
        return found

    @property
    def variables(self) -> list[str]:
        """Names of the variables."""
        return [str(name) for name in self.scores["variables"]]

    @property
    def leads(self) -> np.ndarray:
        """``(L,)`` lead times."""
        return np.asarray(self.scores["lead_time"], float)

    def of(self, name: str) -> np.ndarray:
        """Return a score of the globe, ``(L, V)``; NaN where nothing is observed."""
        known = self.scores if name in self.scores else self.scores["regions"]["global"]
        return np.asarray(known[name], float)

    def error(self, name: str) -> np.ndarray:
        """Return the standard error of a score, ``(L, V)``; NaN for fewer than 2 items."""
        return np.asarray(self.scores["standard_errors"][name], float)


def read_forecast(run: RunRecord, split: str) -> Forecast:
    """Read the scores that are kept in a run folder.

    Raises
    ------
    DataError
        If the file is damaged, or belongs to another run.
    UsageError
        If there are none.
    """
    file = run.path / KEPT / f"{split}.json"
    if not file.exists():
        raise UsageError(
            f"{run.path} has no scores of forecasts of {split}: hpcsamp predict {run.path} "
            f"--rollout STEPS --split {split} --scores --out FORECAST.zarr"
        )
    return Forecast(run, split, text.read_json(file, run.owner, unsealed=not run.owner))


def check_comparable(first: Forecast, second: Forecast) -> None:
    """Check that two forecasts are of the same variables, lead times, data and items.

    Raises
    ------
    UsageError
        If they differ; the message contains both values.
    """
    a, b = first.scores, second.scores
    for what, one, two in (
        ("variables", a["variables"], b["variables"]),
        ("units", a["units"], b["units"]),
        ("the unit of lead times", a["lead_unit"], b["lead_unit"]),
        (f"lead times in {a['lead_unit']}", a["lead_time"], b["lead_time"]),
        ("the dataset", first.table["dataset_uid"], second.table["dataset_uid"]),
        ("the number of items", first.table["items"], second.table["items"]),
    ):  # fmt: skip
        if one != two:
            raise UsageError(
                f"{first.run.path} and {second.run.path} cannot be compared: {what} "
                f"{_difference(one, two)}"
            )


def _difference(one: Any, two: Any) -> str:
    if not isinstance(one, list):
        return f"is {one} and {two}"
    if len(one) != len(two):
        return f"differ: there are {len(one)} and {len(two)}"
    a, b = next((a, b) for a, b in zip(one, two, strict=True) if a != b)
    return f"differ: {a!r} and {b!r}"


def skill(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return ``1 - score / reference``: positive if the score, of which 0 is best, is better."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = 1 - score / reference
    return np.where(np.isfinite(found), found, np.nan)


def state_of(path: Path, item: int, lead: int) -> np.ndarray:
    """Read the members' states of an item at a lead time, counted from 1: ``(M, V, H, W)``.

    Raises
    ------
    UsageError
        If the forecast is no longer there, or cannot be read.
    """
    import xarray as xr

    try:
        if path.suffix == ".zarr":
            opened = xr.open_zarr(path, decode_times=False)
        else:
            opened = xr.open_dataset(path, engine="h5netcdf", decode_times=False)
        with opened as forecast:
            found: np.ndarray = forecast["forecast"][item, :, lead - 1].values
            return found
    except (OSError, KeyError, IndexError, ValueError, ImportError) as e:
        raise UsageError(f"the forecast {path} cannot be read: {str(e).splitlines()[0]}") from e
