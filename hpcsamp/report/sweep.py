"""Write the report of a campaign: points, plots of a metric, learning curves and failures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.campaign import best
from hpcsamp.campaign.collect import Results, collect
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.selection import Selection
from hpcsamp.campaign.status import WORDS, PointStatus, Survey
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.locks import locked
from hpcsamp.report import page, style
from hpcsamp.report.alternative import alternative
from hpcsamp.report.build import ReportFiles
from hpcsamp.report.curves import learning_curves
from hpcsamp.report.records import read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = (
    "One dot is one point. A metric that depends on several keys spreads at each value of one of "
    "them; the line joins the medians."
)
CURVES = 5
"""Number of points whose learning curves are drawn if none are chosen: the best ones."""


def build(
    campaign: Campaign,
    survey: Survey,
    out: Path,
    *,
    metric: str = "nll",
    selection: Selection | None = None,
    curves: Sequence[str] = (),
    single_file: bool = False,
) -> ReportFiles:
    """Write a report of a campaign.

    Parameters
    ----------
    campaign, survey
        The campaign and the states of its points.
    out
        Folder of the report; created if needed.
    metric
        Metric that is drawn against the keys, and by which points are ranked: a column of the
        results table, or the last part of its name.
    selection
        Points to report; None: all.
    curves
        Folder names of the points whose learning curves are drawn; empty: the best ones.
    single_file
        Whether the page contains its figures.

    Raises
    ------
    UsageError
        If the report cannot be written.
    """
    made = ReportFiles(out / "index.html")
    points = selection.among(campaign, survey.points) if selection else survey.points
    results = collect(campaign, bool(survey.live), selection)
    column, ranked = _ranked(results, metric, made.notes)
    counts = {w: sum(s.word == w for s in points) for w in WORDS}
    listed = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    sections = [("Points", f"<p>{len(points)} points: {escape(listed)}.</p>")]
    figures: list[tuple[str, str, Figure]] = []
    with style.styled():
        keys = _varying(campaign, points)
        if column and keys and len(ranked) > 1:
            figures.append(("Keys and metric", AXES, against(results, keys, column)))
        runs = []
        for name in curves or [row["folder"] for row in ranked[:CURVES]]:
            try:
                runs.append(read_run(campaign.folder / "points" / name))
            except HpcsampError as e:
                made.notes.append(f"learning curves: {e}")
        if runs:
            caption = page.CURVES if len(runs) == 1 else page.CURVES_OF_SEVERAL
            figures.append(("Learning curves", caption, learning_curves(runs)))
        try:
            out.mkdir(parents=True, exist_ok=True)
            with locked(out / ".lock", out):
                for title, caption, fig in figures:
                    picture = _save(title, caption, fig, out, made, single_file)
                    sections.append((title, page.figures([picture])))
                sections += _tables(campaign, survey, points, results, column)
                if made.notes:
                    sections.append(("Left out", page.listing(made.notes)))
                title = f"Campaign {campaign.spec.name}"
                write_whole(made.page, page.document(title, sections, several=True))
        except OSError as e:
            raise UsageError(f"cannot write the report {out}: {e.strerror or e}") from e
    return made


def against(results: Results, keys: Sequence[str], column: str) -> Figure:
    """Draw a metric against each of some keys, one panel below the other."""
    fig = style.figure(style.WIDTH, 0.6 + 2.5 * len(keys))
    rows = [row for row in results.rows if best.is_number(row.get(column))]
    for axes, key in zip(np.ravel(fig.subplots(len(keys), 1, squeeze=False)), keys, strict=True):
        known = [row for row in rows if row.get(key) is not None]
        values = [row[key] for row in known]
        y = np.array([row[column] for row in known], float)
        if all(best.is_number(v) for v in values):
            x = np.array(values, float)
            span = (x.min(), x.max()) if x.size else (0.0, 0.0)
            if span[0] > 0 and span[1] / span[0] >= 20:
                axes.set_xscale("log")
        else:
            names = sorted({str(v) for v in values})
            x = np.array([names.index(str(v)) for v in values], float)
            axes.set_xticks(range(len(names)), names)
        axes.plot(x, y, "o", color=style.BLUE, alpha=0.6)
        places = np.unique(x)
        if len(places) < x.size:
            medians = [float(np.median(y[x == place])) for place in places]
            axes.plot(places, medians, color=style.ORANGE, gid="median")
        axes.set_xlabel(key)
        axes.set_ylabel(column)
    style.heading(fig, f"{column} of {len(rows)} points")
    return fig


def _ranked(results: Results, metric: str, notes: list[str]) -> tuple[str, list[dict[str, Any]]]:
    try:
        return best.best(results, metric, count=len(results.rows) or 1)
    except UsageError as e:
        notes.append(f"keys and metric: {e}")
        return "", []


def _varying(campaign: Campaign, points: Sequence[PointStatus]) -> list[str]:
    """Return the keys that have several values."""
    keys = dict.fromkeys(k for s in points for k in s.point.values)
    return [k for k in keys if len({repr(s.point.values.get(k)) for s in points}) > 1]


def _save(
    title: str, caption: str, fig: Figure, out: Path, made: ReportFiles, inside: bool
) -> page.Picture:
    file = out / f"{title.lower().replace(' ', '-')}.png"
    content = style.png(fig)
    if not inside:
        file.write_bytes(content)
        made.pictures.append(file)
    source = page.embedded(content) if inside else file.name
    return page.Picture(source, title, "", caption, alternative(fig))


def _tables(
    campaign: Campaign,
    survey: Survey,
    points: Sequence[PointStatus],
    results: Results,
    column: str,
) -> list[tuple[str, str]]:
    """Return the failures with their causes, and the table of all points."""
    sections = []
    reasons = survey.reasons([s for s in points if s.word in ("failed", "interrupted")])
    if reasons:
        failed = [
            [s.point.number, s.point.name, s.word, reasons[s.point.name]]
            for s in points
            if s.point.name in reasons
        ]
        sections.append(("Failures", page.plain_table(["point", "folder", "state", "why"], failed)))
    keys = list(dict.fromkeys(k for s in points for k in s.point.values))
    metrics = [c for c in results.columns if c.startswith(("valid.", "test."))]
    metrics = list(dict.fromkeys([*([column] if column else []), *metrics]))
    by_name = {row["folder"]: row for row in results.rows}
    rows: list[list[Any]] = [
        [
            *(s.point.number, s.point.name),
            *(s.point.values.get(k) for k in keys),
            s.word,
            *(by_name.get(s.point.name, {}).get(m) for m in metrics),
        ]
        for s in points
    ]
    headings = ["point", "folder", *keys, "state", *metrics]
    return [*sections, ("All points", page.plain_table(headings, rows))]
