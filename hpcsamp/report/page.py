"""The HTML page of a report, without scripts and external resources."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from hpcsamp.report.conformal import sentences
from hpcsamp.report.records import EvaluationRecord, RunRecord

CURVES = (
    "The training loss is the data term plus the KL term (with its weight at that step, including "
    "warm-up and temperature), per item. Thick lines are running means of the pale ones. "
    "Validation metrics are those of the posterior predictive distribution."
)
CURVES_OF_SEVERAL = (
    "Training losses are the data term plus the weighted KL term, per item; thick lines are "
    "running means. Losses of different kinds or temperatures cannot be compared with each other; "
    "validation metrics can."
)
RELIABILITY = (
    "Dots: accuracy of the items in a confidence bin against their mean confidence, with 95 % "
    "Wilson intervals; bars to the diagonal are the calibration gaps. ECE weights the gaps by the "
    "number of items; MACE is their unweighted mean over non-empty bins, so that a bin with one "
    "item counts as much as a full one."
)
COVERAGE = (
    "Fraction of values inside the central interval of the predictive distribution, for each "
    "nominal level; MACE is the mean distance from the diagonal."
)
SPREAD = (
    "Above: the predictive distribution function at the targets (probability integral transform): "
    "flat if calibrated, U-shaped if overconfident, humped if underconfident. Below: values binned "
    "by their predicted standard deviation, with the root mean squared error in each bin; the "
    "area of a dot is proportional to the number of values."
)
ROWS = (
    "By horizon: errors of the predictive mean, the spread, and the CRPS. By variable: the ratio "
    "of spread to RMSE, with the RMSE in the unit of the variable next to its name."
)
BY_SERIES = (
    "In the units of each series. The metrics above are means over all values of all series, so "
    "that a series of large values counts most."
)
FANS = (
    "Items around the 5th, 50th and 95th percentile of uncertainty. Bands are central intervals "
    "of the predictive distribution."
)
MAPS = (
    "The colour scales of mean and truth are the same; that of the error is centred at 0. The "
    "spread is the predictive standard deviation, which includes noise and the uncertainty of the "
    "weights."
)
RISK = (
    "Items are answered in the order of their largest probability. A flat curve means that "
    "the confidence does not indicate which items are wrong."
)
CONFUSION = (
    "Rows: true class, with the number of its items (or pixels) in brackets; columns: predicted "
    "class, the most probable one."
)
BY_LABEL = (
    "Metrics of each label; a label is predicted if its probability is above 1/2. ECE: mean "
    "distance between probability and frequency over bins."
)
UNCERTAIN_MAPS = (
    "Images with the largest mean entropy. The colour scale of the entropy of a pixel's predictive "
    "distribution is from 0 to the logarithm of the number of classes."
)
OOD = (
    "Uncertainties of the items of the split and of those of another dataset. AUROC: probability "
    "that an out-of-distribution item is more uncertain than an item of the split; FPR95: fraction "
    "of out-of-distribution items that are accepted if 95 % of the items of the split are."
)
ITEMS = (
    "Sorted by total uncertainty, the entropy of the posterior predictive distribution. Aleatoric: "
    "mean entropy of the predictions of the weight samples. Epistemic: the difference, which is "
    "the mutual information of prediction and weights."
)

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --pale: #5a5a5a; --line: #ddd; --page: #fff;
        --link: #005a8e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --pale: #b0b0b0; --line: #444; --page: #161616; --link: #7cc4f0; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 74rem; margin: 1.5rem auto 4rem; padding: 0 1rem; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p { max-width: 46rem; margin: .4rem 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; list-style: none; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; font-weight: 400; }
thead th, tbody th { font-weight: 600; }
tbody th { max-width: 26rem; }
td { font-variant-numeric: tabular-nums; min-width: 6.5rem; }
td:last-child { padding-right: 0; }
small { display: block; font-weight: 400; font-size: .85rem; line-height: 1.35;
        color: var(--pale); }
.wide { overflow-x: auto; }
.figures { display: grid; gap: 1.2rem; align-items: start; }
.several .figures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; max-width: 34rem; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { font-weight: 600; margin-bottom: .2rem; }
.caveat { border-left: 4px solid #D55E00; padding-left: .8rem; }
@media (max-width: 44rem) {  /* rows of several runs become blocks, so that no column is cut */
  table.several, table.several tbody, table.several tr, table.several tbody th,
  table.several td { display: block; max-width: none; border: 0; padding: 0; }
  table.several thead { display: none; }
  table.several tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  table.several td:empty { display: none; }
  table.several td::before { content: attr(data-run) ": "; color: var(--pale); } }
@media (min-width: 70rem) { main.alone { columns: 2; column-gap: 2.5rem; }
  main.alone section { break-inside: avoid; }
  main.alone h2 { margin-top: 0; padding-top: 1.6rem; } }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes
    ----------
    source
        File name within the folder, or the figure itself (:func:`embedded`).
    title
        Heading of the section; successive figures with the same title share one.
    whose
        Name of the run if there are several runs.
    caption, alternative
        Text of the section, and alternative text for readers who cannot see the figure.
    """

    source: str
    title: str
    whose: str
    caption: str
    alternative: str


def embedded(content: bytes) -> str:
    """Return a data URL that contains a PNG file."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def html(
    runs: Sequence[RunRecord],
    evaluations: Sequence[EvaluationRecord | None],
    pictures: Sequence[Picture],
    notes: Sequence[str],
) -> str:
    """Return the HTML of the whole page.

    Parameters
    ----------
    runs, evaluations
        The runs, and the evaluation of each or ``None``.
    pictures
        Figures, in order.
    notes
        Lines about figures that were left out.
    """
    title = runs[0].name if len(runs) == 1 else "Runs " + ", ".join(r.name for r in runs)
    names = [run.name for run in runs]
    sections = [("Run" if len(runs) == 1 else "Runs", _table(names, _facts(runs)))]
    if metrics := _metrics(evaluations):
        split = next(e.split for e in evaluations if e is not None)
        sections.append((f"Metrics on {split}", _table(names, metrics)))
    if tables := _by_series(runs, evaluations):
        sections.append(("Metrics of each series", tables))
    if lines := _coverages(runs, evaluations):
        sections.append(("Stated and observed coverage", lines))
    for heading, group in groupby(pictures, key=lambda picture: picture.title):
        sections.append((heading, figures(list(group))))
    if notes:
        sections.append(("Left out", listing(notes)))
    alone = len(runs) == 1
    caveats = "\n".join(_caveat(run, alone=alone) for run in runs if run.caveats)
    return document(title, sections, caveats, several=not alone)


def document(
    title: str, sections: Sequence[tuple[str, str]], caveats: str = "", *, several: bool
) -> str:
    """Return the HTML of a page with sections, each given by a heading and its HTML.

    Parameters
    ----------
    title
        Title and first heading.
    sections
        Heading and HTML of each section.
    caveats
        HTML below the title.
    several
        Whether figures are laid out side by side, as for several runs.
    """
    contents = "".join(
        f'<li><a href="#section-{i}">{escape(heading)}</a></li>'
        for i, (heading, _) in enumerate(sections, start=1)
    )
    body = [
        f"<header><h1>{escape(title)}</h1>",
        *([caveats] if caveats else []),
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav></header>',
        f'<main class="{"several" if several else "alone"}">',
        *(
            f'<section id="section-{i}">\n<h2>{escape(heading)}</h2>\n{inside}\n</section>'
            for i, (heading, inside) in enumerate(sections, start=1)
        ),
        "</main>",
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def listing(lines: Sequence[str]) -> str:
    """Return an HTML list of lines."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table with column headings, which scrolls sideways on narrow screens."""
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    cells = [["" if v is None else escape(_number(v)) for v in row] for row in rows]
    body = "\n".join(
        f"<tr>{''.join(f'<td>{content}</td>' for content in row)}</tr>" for row in cells
    )
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _caveat(run: RunRecord, *, alone: bool) -> str:
    whose = "" if alone else f"{run.name}: "
    return (
        f'<p class="caveat">{escape(whose + ", ".join(run.caveats))}: the results below are not '
        f"those of the exact Bayesian posterior.</p>"
    )


def figures(pictures: Sequence[Picture]) -> str:
    """Return the HTML of a section: its caption, and one figure or one per run side by side."""
    lines = [f"<p>{escape(pictures[0].caption)}</p>", '<div class="figures">']
    for picture in pictures:
        whose = f"<figcaption>{escape(picture.whose)}</figcaption>" if picture.whose else ""
        lines.append(
            f'<figure>{whose}<img src="{escape(picture.source)}" '
            f'alt="{escape(picture.alternative)}"></figure>'
        )
    return "\n".join([*lines, "</div>"])


Row = tuple[str, list[str], str]  # name, a cell per run, description


def _facts(runs: Sequence[RunRecord]) -> list[Row]:
    """Return the table rows with the configuration and performance of the runs."""

    def row(name: str, cells: list[Any], description: str = "") -> Row:
        return name, ["" if c is None else _number(c) for c in cells], description

    s = [r.summary for r in runs]
    rows = [
        row("model", [r.setting("model", "name") for r in runs]),
        row("data", [r.setting("data", "path") for r in runs]),
        row("method", [r.setting("method", "name") for r in runs]),
        row("loss", [r.setting("loss", "name") for r in runs]),
        row(
            "temperature",
            [r.temperature for r in runs],
            "factor of the KL term; 1 is the Bayesian posterior",
        ),
        row("weight samples S", [r.setting("method", "samples") for r in runs], "per step"),
        row("batch", [r.setting("data", "batch") for r in runs], "items per step over all ranks"),
        row("seed", [r.setting("seed") for r in runs]),
        row("steps", [r.get("steps") for r in s]),
        row("ranks", [_grid(r) for r in s], "data groups × sample ranks"),
        row("seconds per step", [r.get("seconds_per_step") for r in s], "median"),
        row("items per second", [r.get("items_per_second") for r in s]),
        row("peak memory", [r.get("peak_rss_mb") for r in s], "MB, of the rank that uses most"),
        row(
            "parameters",
            [(r.get("parameters_sha256") or "")[:12] for r in s],
            "first digits of SHA-256",
        ),
    ]
    return [r for r in rows if any(r[1])]


def _grid(summary: dict[str, Any]) -> str | None:
    if "world_size" not in summary:
        return None
    d, p = summary.get("data_group_size"), summary.get("sample_group_size")
    return f"{summary['world_size']} = {d} × {p}"


def _metrics(evaluations: Sequence[EvaluationRecord | None]) -> list[Row]:
    from hpcsamp.metrics.definitions import DESCRIPTIONS

    present = [e.metrics for e in evaluations if e is not None]
    names = list(dict.fromkeys(name for m in present for name in m))
    units = {k: v for e in evaluations if e is not None for k, v in e.units.items()}
    own = (e.definitions for e in evaluations if e is not None)
    meaning = {**DESCRIPTIONS, **{k: v for of in own for k, v in of.items()}}
    rows = [
        (
            name,
            ["" if e is None or e.metrics.get(name) is None else _number(e.metrics[name])
             for e in evaluations],
            meaning.get(name, "") + (f" ({units[name]})" if name in units else ""),
        )
        for name in names
    ]  # fmt: skip
    if present:
        samples = [str(e.samples) if e is not None else "" for e in evaluations]
        rows.append(("samples", samples, "weight samples of the predictive distribution"))
    if any(e is not None and e.laplace for e in evaluations):
        rows.append(("posterior", [_fitted(e) for e in evaluations], "of the predictions"))
    return rows


def _by_series(runs: Sequence[RunRecord], evaluations: Sequence[EvaluationRecord | None]) -> str:
    """Return an HTML table of the metrics of each series for every run that has several series."""
    parts = []
    for run, evaluation in zip(runs, evaluations, strict=True):
        found = {} if evaluation is None else evaluation.series
        if found:
            whose = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
            columns = ["labels", *(key for key in found if key != "labels")]
            rows = list(zip(*(found[key] for key in columns), strict=True))
            parts.append(whose + plain_table(["series", *columns[1:]], rows))
    return "\n".join([f"<p>{BY_SERIES}</p>", *parts]) if parts else ""


def _fitted(evaluation: EvaluationRecord | None) -> str:
    """Return the kind of the Laplace posterior of an evaluation, else ``"trained"``."""
    if evaluation is None:
        return ""
    of = evaluation.laplace
    return f"Laplace ({of['kind']}, {of['predictive']})" if of else "trained"


def _coverages(runs: Sequence[RunRecord], evaluations: Sequence[EvaluationRecord | None]) -> str:
    """Return HTML paragraphs on the conformal intervals and sets of the runs."""
    lines = []
    for run, evaluation in zip(runs, evaluations, strict=True):
        for text in [] if evaluation is None else sentences(evaluation):
            whose = f"{run.name}: " if len(runs) > 1 else ""
            lines.append(f"<p>{escape(whose + text)}</p>")
    return "\n".join(lines)


def _table(runs: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table with a column per run; a narrow screen shows the runs below each other."""
    several = len(runs) > 1
    lines = []
    if several:
        cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in runs)
        lines.append(f"<thead><tr><td></td>{cells}</tr></thead>")
    lines.append("<tbody>")
    for name, values, description in rows:
        cells = "".join(
            f"<td{f' data-run={chr(34)}{escape(run)}{chr(34)}' * several}>{escape(value)}</td>"
            for run, value in zip(runs, values, strict=True)
        )
        meaning = f"<small>{escape(description)}</small>" if description else ""
        lines.append(f'<tr><th scope="row">{escape(name)}{meaning}</th>{cells}</tr>')
    inside = "\n".join([*lines, "</tbody>"])
    return f"<table{' class=several' * several}>\n{inside}\n</table>"


def _number(value: Any) -> str:
    """Format a number: four significant digits, or all digits before the decimal point."""
    if isinstance(value, float):
        whole = value.is_integer() or 1e4 <= abs(value) < 1e9
        return f"{value:.0f}" if whole else f"{value:.4g}"
    return str(value)
