"""Draw a figure of the paper by its number, from run folders or scaling records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.locks import locked
from hpcsamp.report import style
from hpcsamp.report.figures import convergence, scaling, scaling_table, sources
from hpcsamp.report.records import MissingMaterialError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureKind:
    """A figure of the paper: its title and the function that draws it from paths."""

    title: str
    make: Callable[[Sequence[Path], str], Figure]


def _scaling(paths: Sequence[Path], title: str, published: bool = False) -> Figure:
    records = sources.scaling_records(paths)
    models = list(dict.fromkeys(str(r["model"]) for r in records))
    if len(models) > 1:
        raise UsageError(
            f"the records are of several models ({', '.join(models)}): name paths of one model"
        )
    return scaling.scaling(records, title, published)


def _runs(paths: Sequence[Path], title: str, draw: Callable[..., Figure]) -> Figure:
    return draw(sources.runs(paths), title=title)


def _of_runs(
    draw: Callable[..., Figure], metric: str, over: str = "epoch"
) -> Callable[..., Figure]:
    return partial(_runs, draw=partial(draw, metric=metric, over=over))


FIGURES = {
    "4": FigureKind("Figure 4: scaling of the ViT", _scaling),
    "5": FigureKind("Figure 5: accuracy over epochs", _of_runs(convergence.by_batch, "accuracy")),
    "6": FigureKind(
        "Figure 6: accuracy and augmentation", _of_runs(convergence.by_share, "accuracy")
    ),
    "7": FigureKind(
        "Figure 7: accuracy over training time",
        _of_runs(convergence.by_batch, "accuracy", "time"),
    ),
    "8": FigureKind("Figure 8: NLL over epochs", _of_runs(convergence.by_strategy, "nll")),
    "9": FigureKind("Figure 9: scaling of the MLP", _scaling),
    "10": FigureKind("Figure 10: scaling of the SWIN transformer", _scaling),
    "mixer": FigureKind(
        "Scaling of the weather mixer over three axes", partial(_scaling, published=True)
    ),
}
TABLE = "table1"


def figure_of(paths: Sequence[Path]) -> str | None:
    """Return the figure of a campaign that is named after it (``figure4.toml``), else None."""
    if len(paths) == 1 and paths[0].suffix == ".toml":
        return {_stem(name): name for name in (*FIGURES, TABLE)}.get(paths[0].stem)
    return None


def _stem(name: str) -> str:
    """Return the name of a figure's files."""
    if name == TABLE:
        return name
    return f"figure{name}" if name.isdigit() else f"figure-{name}"


def draw(name: str, paths: Sequence[Path], out: Path) -> list[Path]:
    """Draw a figure, or write the table (Markdown and CSV).

    Parameters
    ----------
    name
        One of :data:`FIGURES`, or ``table1``.
    paths
        Run folders, campaigns, files or folders of scaling records.
    out
        Folder of the figure; created if needed.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    UsageError
        If there is no such figure, or its data are missing.
    """
    if name not in (*FIGURES, TABLE):
        raise UsageError(f"--figure {name}: choose one of {', '.join([*FIGURES, TABLE])}")
    try:
        if name == TABLE:
            made = scaling_table.calibration(sources.runs(paths))
            texts = {f"{TABLE}.md": made.markdown(), f"{TABLE}.csv": made.csv()}
            out.mkdir(parents=True, exist_ok=True)
            with locked(out / ".lock", out):
                for file, text in texts.items():
                    write_whole(out / file, text)
            return [out / file for file in texts]
        kind = FIGURES[name]
        with style.styled():
            figure = kind.make(paths, kind.title)
            out.mkdir(parents=True, exist_ok=True)
            with locked(out / ".lock", out):
                return [style.save(figure, out / f"{_stem(name)}.png")]
    except MissingMaterialError as e:
        raise UsageError(f"--figure {name}: {e}") from None
    except OSError as e:
        raise UsageError(f"cannot write the figure in {out}: {e.strerror or e}") from None
