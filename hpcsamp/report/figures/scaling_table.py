"""Table 1: mean absolute calibration error by strategy and global batch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcsamp.report.figures.convergence import batch_of, ranks_of
from hpcsamp.report.records import MissingMaterialError, RunRecord

NAMES = {"data": "data parallelism", "sampling": "sampling parallelism"}


@dataclass(frozen=True)
class ScalingTable:
    """Return means over seeds by strategy and global batch; ``None`` if there is no run."""

    batches: tuple[int, ...]
    rows: dict[str, tuple[float | None, ...]]
    split: str
    seeds: int

    def markdown(self) -> str:
        """Return the table in Markdown."""
        head = ["method / global batch", *map(str, self.batches)]
        lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
        for name, values in self.rows.items():
            cells = ["" if v is None else f"{v:.4f}" for v in values]
            lines.append(f"| {' | '.join([name, *cells])} |")
        title = f"MACE (lower is better) on {self.split}, mean over {self.seeds} seed"
        return f"{title}{'s' * (self.seeds > 1)}\n\n" + "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", *self.batches])
        for name, values in self.rows.items():
            writer.writerow([name, *("" if v is None else v for v in values)])
        return text.getvalue()


def calibration(runs: Sequence[RunRecord], split: str = "test") -> ScalingTable:
    """Compute the table of MACE from the evaluations of a split.

    If not all runs were evaluated, the last validations are used instead.

    Raises
    ------
    MissingMaterialError
        If no run has the metric.
    """
    found: dict[tuple[str, int], list[float]] = {}
    evaluated = all(run.evaluation(split) is not None for run in runs)
    for run in runs:
        evaluation = run.evaluation(split) if evaluated else None
        metrics = evaluation.metrics if evaluation else run.summary.get("metrics", {})
        if metrics.get("mace") is not None:
            found.setdefault((ranks_of(run)[0], batch_of(run)), []).append(float(metrics["mace"]))
    if not found:
        raise MissingMaterialError(
            "no run has the metric mace, which the evaluation of a classifier computes"
        )
    batches = tuple(sorted({batch for _, batch in found}))
    rows = {
        NAMES.get(name, name): tuple(
            float(np.mean(found[name, b])) if (name, b) in found else None for b in batches
        )
        for name in sorted({name for name, _ in found})
    }
    seeds = max(map(len, found.values()))
    return ScalingTable(batches, rows, split if evaluated else "the last validation", seeds)
