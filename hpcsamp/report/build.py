"""Build a report: an HTML page with tables and all figures that the runs have data for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.kinds import parts_of
from hpcsamp.locks import locked
from hpcsamp.report import page, style
from hpcsamp.report.alternative import alternative
from hpcsamp.report.curves import learning_curves
from hpcsamp.report.fans import forecast_fans
from hpcsamp.report.gallery import gallery
from hpcsamp.report.labels import by_label, confusion_matrix, uncertain_maps
from hpcsamp.report.maps import weather_maps
from hpcsamp.report.mixture import read_mixture
from hpcsamp.report.records import (
    DoesNotApplyError,
    EvaluationRecord,
    MissingMaterialError,
    RunRecord,
    read_run,
)
from hpcsamp.report.reliability import coverage_diagram, reliability_diagram
from hpcsamp.report.rows import row_errors
from hpcsamp.report.selective import ood_histograms, risk_coverage_curve
from hpcsamp.report.spread import spread_diagrams

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class ReportFiles:
    """Files of a report.

    Attributes
    ----------
    page
        Path of ``index.html``.
    pictures
        Paths of the PNG files, in the order of the page; empty if the page contains them.
    notes
        Figures that were left out, each with the reason in one line.
    """

    page: Path
    pictures: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Draft:
    """A figure to draw: file name without suffix, section, run, caption and drawing function."""

    name: str
    title: str
    whose: str
    caption: str
    make: Callable[[], Figure]


def build(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    split: str = "test",
    items: int = 24,
    single_file: bool = False,
    mixture: str | Path | None = None,
) -> ReportFiles:
    """Write a report of one run, or a report that compares several runs.

    Parameters
    ----------
    paths
        Run folders.
    out
        Folder of the report; created if needed. Files of an earlier report are replaced.
    split
        Split whose evaluation is shown.
    items
        Number of the most uncertain items to show.
    single_file
        Whether the page contains its figures, so that it can be sent as one file.
    mixture
        Evaluation of the mixture of the runs, see :mod:`hpcsamp.report.mixture`.

    Raises
    ------
    UsageError
        If a run folder or the evaluation of the mixture is missing, damaged or does not fit, or the
        report cannot be written.
    """
    runs = [read_run(path) for path in paths]
    evaluations = [run.evaluation(split) for run in runs]
    if mixture is not None:
        both, of_both = read_mixture(mixture, runs, split)
        runs, evaluations = [*runs, both], [*evaluations, of_both]
    made = ReportFiles(Path(out) / "index.html")
    drafts = _drafts(runs, evaluations, split, items, made.notes)
    return write(runs, evaluations, drafts, made, single_file)


def write(
    runs: Sequence[RunRecord],
    evaluations: Sequence[EvaluationRecord | None],
    drafts: Sequence[Draft],
    made: ReportFiles,
    single_file: bool,
) -> ReportFiles:
    """Draw figures and write them with their page.

    Raises
    ------
    UsageError
        If the folder cannot be written.
    """
    folder = made.page.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", folder), style.styled():
            shown = _draw(drafts, folder, made, single_file)
            write_whole(made.page, page.html(runs, evaluations, shown, made.notes))
    except OSError as e:
        raise UsageError(f"cannot write the report {folder}: {e.strerror or e}") from e
    return made


def _drafts(
    runs: Sequence[RunRecord],
    evaluations: Sequence[EvaluationRecord | None],
    split: str,
    items: int,
    notes: list[str],
) -> list[Draft]:
    """Return all figures that may be drawn, grouped by section."""
    alone = len(runs) == 1
    caption = page.CURVES if alone else page.CURVES_OF_SEVERAL
    trained = [run for run in runs if run.events]
    drafts = [
        Draft("learning-curves", "Learning curves", "", caption, lambda: learning_curves(trained))
    ]
    for i, (run, evaluation) in enumerate(zip(runs, evaluations, strict=True), start=1):
        whose, suffix = ("", "") if alone else (run.name, f"-{i}")
        if evaluation is None:
            notes.append(
                f"calibration{f' of {whose}' if whose else ''}: {split} has not been evaluated "
                f"(hpcsamp evaluate {run.path} --split {split})"
            )
            continue
        if why := run.outdated(evaluation):
            notes.append(why)
        for target, kind in run.kinds.items():
            of = evaluation.of_target(target) if target else evaluation
            start, end = (f"{target}-", f": {target}") if target else ("", "")
            drafts += [
                Draft(f"{start}{name}{suffix}", title + end, whose, words,
                      lambda r=run, e=of, d=diagram: d(r, e))  # type: ignore[misc]
                for name, title, words, diagram in _pictures(kind, items, alone=alone)
            ]  # fmt: skip
    sections = list(dict.fromkeys(draft.title for draft in drafts))
    return sorted(drafts, key=lambda draft: sections.index(draft.title))


def _draw(
    drafts: Sequence[Draft], folder: Path, made: ReportFiles, inside: bool
) -> list[page.Picture]:
    """Draw the figures, section by section; note those for which data are missing."""
    shown: list[page.Picture] = []
    for _, section in groupby(drafts, key=lambda draft: draft.title):
        drawn: list[tuple[Draft, Figure]] = []
        for draft in section:
            # do not leave a figure of an earlier report in the folder
            (folder / f"{draft.name}.png").unlink(missing_ok=True)
            try:
                drawn.append((draft, draft.make()))
            except DoesNotApplyError:
                pass
            except MissingMaterialError as e:
                whose = f" of {draft.whose}" if draft.whose else ""
                made.notes.append(f"{draft.title.lower()}{whose}: {e}")
        style.same_scales([fig for _, fig in drawn])
        for draft, fig in drawn:
            file = folder / f"{draft.name}.png"
            content = style.png(fig)
            if not inside:
                file.write_bytes(content)
                made.pictures.append(file)
            source = page.embedded(content) if inside else file.name
            shown.append(
                page.Picture(source, draft.title, draft.whose, draft.caption, alternative(fig))
            )
    return shown


Diagram = Callable[[RunRecord, EvaluationRecord], "Figure"]


def _pictures(kind: str, items: int, *, alone: bool) -> list[tuple[str, str, str, Diagram]]:
    """Return file name, title, caption and drawing function of each figure for a kind of task.

    Figures of single items are left out if several runs are compared.
    """
    known = {
        "reliability": ("Reliability", page.RELIABILITY, reliability_diagram),
        "risk-coverage": ("Risk and coverage", page.RISK, risk_coverage_curve),
        "confusion": ("Confusion matrix", page.CONFUSION, confusion_matrix),
        "by-label": ("By label", page.BY_LABEL, by_label),
        "coverage": ("Coverage", page.COVERAGE, coverage_diagram),
        "spread": ("Spread", page.SPREAD, spread_diagrams),
        "rows": ("Errors by row", page.ROWS, row_errors),
        "ood": ("Out-of-distribution items", page.OOD, ood_histograms),
    }
    single = {
        "uncertain-items": (
            "Most uncertain items", page.ITEMS, lambda r, e: gallery(r, e, items)
        ),
        "uncertain-maps": ("Most uncertain images", page.UNCERTAIN_MAPS, uncertain_maps),
        "forecasts": ("Forecasts", page.FANS, forecast_fans),
        "maps": ("Maps", page.MAPS, weather_maps),
    }  # fmt: skip
    parts = parts_of(kind)
    figures = [(name, *known[name]) for name in (*parts, "ood") if name in known]
    return figures + [(name, *single[name]) for name in parts if name in single and alone]
