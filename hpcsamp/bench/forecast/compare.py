"""Compare the forecasts of runs with those of baselines over the rolling origins of a split."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from hpcsamp.bench.forecast.boosting import boosting
from hpcsamp.bench.forecast.ets import ets
from hpcsamp.bench.forecast.origins import Origins, read_origins
from hpcsamp.bench.forecast.runs import of_run
from hpcsamp.bench.forecast.sarima import sarima
from hpcsamp.bench.forecast.scores import Scores
from hpcsamp.bench.forecast.seasonal import seasonal
from hpcsamp.data.manifest import read_manifest
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.series_axis import span

BASELINES = ("naive", "ets", "sarima", "boosting")
DAY, WEEK = 86_400, 7 * 86_400


@dataclass(frozen=True)
class Comparison:
    """Scores of all forecasts, each with the seconds that it took.

    Attributes
    ----------
    found
        Scores and seconds, baselines first.
    groups
        Lead times of each group by its name, all of them first.
    origins
        Number of origins.
    """

    found: list[tuple[Scores, float]]
    groups: dict[str, slice]
    origins: int


@dataclass(frozen=True)
class Options:
    """Options of a comparison; see ``hpcsamp bench forecast``."""

    split: str = "test"
    baselines: Sequence[str] = BASELINES
    seasons: Sequence[int] = ()
    steps: int = 2016
    groups: int = 4
    coverage: float = 0.9
    samples: int | None = None
    recalibrated: bool = True


def compare(data: Path, runs: Sequence[Path], options: Options) -> Comparison:
    """Score the forecasts of baselines and runs.

    Raises
    ------
    DataError
        If the set has no such split or no training part, or does not fit a run.
    UsageError
        If it is not a series set, a season is longer than the past of a window, or a package is
        missing.
    """
    names = list(read_manifest(data).splits)
    if options.split == "train" or options.split not in names or "train" not in names:
        raise DataError(
            f"{data} has the splits {', '.join(names)}: train, and another one to forecast, are "
            f"needed (--split {options.split})"
        )
    order: list[str] = [name for name in ("train", "valid", "test") if name in names]
    order = order[: order.index(options.split) + 1] if options.split in order else []
    parts = [read_origins(data, name) for name in order or ("train", options.split)]
    train, before, test = parts[0], parts[1:-1], parts[-1]
    seasons = list(options.seasons) or usual_seasons(train)
    for season in seasons:
        if not 0 < season <= train.past.shape[1]:
            raise UsageError(
                f"--season {season}: windows have {train.past.shape[1]} past values; a season has "
                f"at least 1 step and at most these"
            )
    seasons = sorted(set(seasons))
    level, jobs = options.coverage, list[Callable[[], Scores]]()
    for kind in options.baselines:
        if kind == "naive":
            for season in seasons:
                name = f"seasonal naive, {span(season * train.step)}"
                jobs.append(partial(seasonal, name, train, test, season, level))
        elif kind == "boosting":
            jobs.append(partial(boosting, train, test, seasons, level))
        elif kind == "ets":
            jobs.append(partial(ets, train, before, test, seasons[0], options.steps, level))
        else:
            jobs.append(partial(sarima, train, before, test, seasons, options.steps, level))
    how = data, options.split, level, options.samples, options.recalibrated
    jobs += [partial(of_run, run, *how) for run in runs]
    found = []
    for job in jobs:
        start = time.perf_counter()
        found.append((job(), time.perf_counter() - start))
    return Comparison(found, groups_of(test, options.groups), len(test))


def usual_seasons(of: Origins) -> list[int]:
    """Return a day and a week in steps, as far as a window has so many past values.

    Raises
    ------
    UsageError
        If a window has less than a day of past values.
    """
    past = of.past.shape[1]
    found = [n // of.step for n in (DAY, WEEK) if n % of.step == 0 and of.step < n]
    found = [season for season in found if season <= past]
    if not found:
        raise UsageError(
            f"windows have {past} past values, one every {span(of.step)}, which is less than a "
            f"day: name a season in steps with --season"
        )
    return found


def groups_of(of: Origins, count: int) -> dict[str, slice]:
    """Divide the lead times into groups, after one group of all of them."""
    cuts = np.rint(np.linspace(0, of.leads, min(count, of.leads) + 1)).astype(int).tolist()
    found = {"all": slice(0, of.leads)}
    for low, high in pairwise(cuts):
        found[f"{span((low + 1) * of.step)} to {span(high * of.step)}"] = slice(low, high)
    return found
