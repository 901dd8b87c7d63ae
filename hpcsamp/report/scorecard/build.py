"""Write the page of a scorecard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcsamp.errors import UsageError
from hpcsamp.report.build import Draft, ReportFiles, write
from hpcsamp.report.records import read_run
from hpcsamp.report.scorecard.figures import (
    forecast_maps,
    lead_curves,
    rank_histograms,
    shown,
    skill_table,
)
from hpcsamp.report.scorecard.scores import (
    REFERENCES,
    TABLES,
    Forecast,
    check_comparable,
    read_forecast,
    skill,
)

TABLE = (
    "Relative skill 1 - score / reference: blue cells are better than the reference, red ones "
    "worse. Grey cells are not observed. The CRPS of a reference without spread is its absolute "
    "error."
)
CURVES = (
    "Bands are two standard errors to either side, over the initial states as if these were "
    "independent. Spread and RMSE agree if the ensemble is calibrated."
)
RANKS = (
    "Share of points by the number of members below the observed value, relative to equal shares: "
    "U-shaped if the spread is too small, humped if it is too large, sloping if there is a bias."
)
MAPS = (
    "Mean, observed state, error of the mean and standard deviation of the members. The colour "
    "scales of mean and truth are the same; that of the error is centred at 0."
)


def scorecard(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    split: str = "test",
    item: int = 0,
    lead: int | None = None,
    single_file: bool = False,
) -> ReportFiles:
    """Write the scorecard of the forecasts of one run, or of a second run against the first.

    Parameters
    ----------
    paths
        One or two run folders, whose scores are kept (``hpcsamp predict --rollout --scores``).
    out, single_file
        See :func:`hpcsamp.report.build`.
    split
        Split whose forecasts are shown.
    item, lead
        Item, and lead time in steps, of the maps; None for the last lead time that is observed.

    Raises
    ------
    DataError, UsageError
        If scores are missing or damaged, or two runs cannot be compared.
    """
    if len(paths) > 2:
        raise UsageError(f"a scorecard is of 1 run, or compares 2 runs, not {len(paths)}")
    forecasts = [read_forecast(read_run(path), split) for path in paths]
    if len(forecasts) == 2:
        check_comparable(*forecasts)
    for of in forecasts:
        if not 0 <= item < of.table["items"]:
            raise UsageError(f"--item {item}: the forecast has {of.table['items']} items")
        if lead is not None and not 1 <= lead <= len(of.leads):
            raise UsageError(f"--lead {lead}: the forecast has {len(of.leads)} lead times")
    drafts = [*_tables(forecasts), *_others(forecasts, item, lead)]
    runs = [of.run for of in forecasts]
    made = ReportFiles(Path(out) / "index.html")
    return write(runs, [None] * len(runs), drafts, made, single_file)


def _tables(forecasts: Sequence[Forecast]) -> list[Draft]:
    """Return the tables of the last run against the first, or against simple forecasts."""
    last, drafts = forecasts[-1], []
    for score, words in TABLES.items():
        if len(forecasts) == 2:
            first = forecasts[0]
            against = {first.run.name: ("", first.of(score))}
        else:
            against = {n: (f"-{n}", last.of(own[score])) for n, own in REFERENCES.items()}
        for name, (suffix, reference) in against.items():
            title = f"{words}: {last.run.name} against {name}"
            values = skill(last.of(score), reference)
            drafts.append(
                Draft(f"skill-{score}{suffix}", "Skill", f"{words}, against {name}", TABLE,
                      lambda v=values, t=title: skill_table(last, v, t))  # type: ignore[misc]
            )  # fmt: skip
    return drafts


def _others(forecasts: Sequence[Forecast], item: int, lead: int | None) -> list[Draft]:
    """Return curves of some variables, and rank histograms and maps of each run."""
    drafts = [
        Draft(f"lead-times-{number}", f"Lead times: {name}", "", CURVES,
              lambda n=name: lead_curves(forecasts, n))  # type: ignore[misc]
        for number, name in enumerate(shown(forecasts[0].variables), start=1)
    ]  # fmt: skip
    alone = len(forecasts) == 1
    numbered = [
        ("", "", of) if alone else (of.run.name, f"-{i}", of)
        for i, of in enumerate(forecasts, start=1)
    ]
    drafts += [
        Draft(f"ranks{suffix}", "Rank histograms", whose, RANKS,
              lambda f=of: rank_histograms(f))  # type: ignore[misc]
        for whose, suffix, of in numbered
    ]  # fmt: skip
    drafts += [
        Draft(f"maps{suffix}", "Maps", whose, MAPS,
              lambda f=of: forecast_maps(f, item, lead))  # type: ignore[misc]
        for whose, suffix, of in numbered
    ]  # fmt: skip
    return drafts
