"""Build a report: all figures for which the runs hold the data, and an HTML page with tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.kinds import parts_of
from hpcsamp.locks import locked
from hpcsamp.report import page, style
from hpcsamp.report.curves import learning_curves
from hpcsamp.report.fans import forecast_fans
from hpcsamp.report.gallery import gallery
from hpcsamp.report.labels import by_label, confusion_matrix, uncertain_maps
from hpcsamp.report.maps import weather_maps
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
        Paths of the PNG files, in the order of the page.
    notes
        Figures that were left out, each with the reason in one line.
    """

    page: Path
    pictures: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def build(
    paths: Sequence[str | Path], out: str | Path, *, split: str = "test", items: int = 24
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

    Raises
    ------
    UsageError
        If a run folder is missing or damaged, or the report cannot be written.
    """
    runs = [read_run(path) for path in paths]
    evaluations = [run.evaluation(split) for run in runs]
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", folder):
            return _write(folder, runs, evaluations, split, items)
    except OSError as e:
        raise UsageError(f"cannot write the report {folder}: {e.strerror or e}") from e


def _write(
    folder: Path,
    runs: Sequence[RunRecord],
    evaluations: Sequence[EvaluationRecord | None],
    split: str,
    items: int,
) -> ReportFiles:
    made = ReportFiles(folder / "index.html")
    shown: list[page.Picture] = []

    def draw(name: str, title: str, caption: str, make: Callable[[], Figure]) -> None:
        file = folder / f"{name}.png"
        file.unlink(missing_ok=True)  # do not leave a figure of an earlier report in the folder
        try:
            made.pictures.append(style.save(make(), file))
        except DoesNotApplyError:
            pass
        except MissingMaterialError as e:
            made.notes.append(f"{title.lower()}: {e}")
        else:
            shown.append(page.Picture(file.name, title, caption))

    with style.styled():
        draw(
            "learning-curves",
            "Learning curves",
            page.CURVES if len(runs) == 1 else page.CURVES_OF_SEVERAL,
            lambda: learning_curves(runs),
        )
        for i, (run, evaluation) in enumerate(zip(runs, evaluations, strict=True), start=1):
            whose, suffix = ("", "") if len(runs) == 1 else (f" of {run.name}", f"-{i}")
            if evaluation is None:
                made.notes.append(
                    f"calibration{whose}: {split} has not been evaluated "
                    f"(hpcsamp evaluate {run.path} --split {split})"
                )
                continue
            for target, kind in run.kinds.items():
                of = evaluation.of_target(target) if target else evaluation
                start, end = (f"{target}-", f": {target}") if target else ("", "")
                for name, title, caption, diagram in _pictures(kind, items, alone=len(runs) == 1):
                    draw(
                        f"{start}{name}{suffix}",
                        title + end + whose,
                        caption,
                        lambda r=run, e=of, d=diagram: d(r, e),  # type: ignore[misc]
                    )
    write_whole(made.page, page.html(runs, evaluations, shown, made.notes))
    return made


Diagram = Callable[[RunRecord, EvaluationRecord], "Figure"]


def _pictures(kind: str, items: int, *, alone: bool) -> list[tuple[str, str, str, Diagram]]:
    """File name, title, caption and drawing function of each figure for a kind of task.

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
