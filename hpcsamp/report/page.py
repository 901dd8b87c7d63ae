"""The HTML page of a report: plain HTML next to the figures, without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

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
    "Left: the predictive distribution function at the targets (probability integral transform): "
    "flat if calibrated, U-shaped if overconfident, humped if underconfident. Right: values binned "
    "by their predicted standard deviation, with the root mean squared error in each bin; the "
    "area of a dot is proportional to the number of values."
)
ROWS = (
    "By horizon: errors of the predictive mean, the spread, and the CRPS. By variable: the ratio "
    "of spread to RMSE, with the RMSE in the unit of the variable next to its name."
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
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem 1.2rem .2rem 0;
       border-bottom: 1px solid #e5e5e5; vertical-align: top; }
td.n { font-variant-numeric: tabular-nums; }
td.description { color: #666; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
figcaption { color: #555; max-width: 46rem; }
.caveat { border-left: 4px solid #D55E00; padding-left: .8rem; }
.tables { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Picture:
    """A figure of the page: file name within the folder, heading and caption."""

    file: str
    title: str
    caption: str


def html(
    runs: Sequence[RunRecord],
    evaluations: Sequence[EvaluationRecord | None],
    pictures: Sequence[Picture],
    notes: Sequence[str],
) -> str:
    """The HTML of the whole page.

    Parameters
    ----------
    runs, evaluations
        The runs, and the evaluation of each or ``None``.
    pictures
        Figures, in order.
    notes
        Lines on figures that were left out.
    """
    title = runs[0].name if len(runs) == 1 else "Runs " + ", ".join(r.name for r in runs)
    body = [f"<h1>{escape(title)}</h1>"]
    for run in runs:
        if run.caveats:
            whose = "" if len(runs) == 1 else f"{run.name}: "
            body.append(f'<p class="caveat">{escape(whose + ", ".join(run.caveats))}: the results '
                        f"below are not those of the exact Bayesian posterior.</p>")  # fmt: skip
    body.append(_table("Run", [r.name for r in runs], _facts(runs)))
    if metrics := _metrics(evaluations):
        first = next(e for e in evaluations if e is not None)
        heading = f"Metrics on {first.split}"
        body.append(_table(heading, [r.name for r in runs], metrics))
    for picture in pictures:
        name, heading = escape(picture.file), escape(picture.title)
        body.append(
            f'<h2>{heading}</h2>\n<figure><img src="{name}" alt="{heading}">\n'
            f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        )
    if notes:
        lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
        body.append(f"<h2>Left out</h2>\n<ul>{lines}</ul>")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


Row = tuple[str, list[str], str]  # name, a cell per run, description


def _facts(runs: Sequence[RunRecord]) -> list[Row]:
    """Rows on the configuration and the performance of the runs."""

    def row(name: str, cells: list[Any], description: str = "") -> Row:
        return name, ["" if c is None else _number(c) for c in cells], description

    s = [r.summary for r in runs]
    rows = [
        row("model", [r.setting("model", "name") for r in runs]),
        row("data", [r.setting("data", "path") for r in runs]),
        row("method", [r.setting("method", "name") for r in runs]),
        row("loss", [r.setting("loss", "name") for r in runs]),
        row("temperature", [r.temperature for r in runs], "factor of the KL term; 1 is Bayes"),
        row("weight samples S", [r.setting("method", "samples") for r in runs], "per step"),
        row("batch", [r.setting("data", "batch") for r in runs], "items per step over all ranks"),
        row("seed", [r.setting("seed") for r in runs]),
        row("steps", [r.get("steps") for r in s]),
        row("ranks", [_grid(r) for r in s], "data groups × sample ranks"),
        row("seconds per step", [r.get("seconds_per_step") for r in s], "median"),
        row("items per second", [r.get("items_per_second") for r in s]),
        row("peak memory", [r.get("peak_rss_mb") for r in s], "MB, largest rank"),
        row("parameters", [(r.get("parameters_sha256") or "")[:16] for r in s], "begin of SHA-256"),
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
    return rows


def _table(heading: str, runs: Sequence[str], rows: Sequence[Row]) -> str:
    lines = []
    if len(runs) > 1:
        cells = "".join(f"<th>{escape(name)}</th>" for name in runs)
        lines.append(f"<tr><th></th>{cells}<th></th></tr>")
    for name, values, description in rows:
        cells = "".join(f'<td class="n">{escape(value)}</td>' for value in values)
        cells += f'<td class="description">{escape(description)}</td>'
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    inside = "\n".join(lines)
    return f'<h2>{escape(heading)}</h2>\n<div class="tables"><table>\n{inside}\n</table></div>'


def _number(value: Any) -> str:
    """Format a number: four significant digits, or all digits of an integer."""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
    return str(value)
