"""Reports of runs: figures and an HTML page, drawn from the files in run folders."""

from __future__ import annotations

from hpcsamp.report.build import Made, build
from hpcsamp.report.records import EvaluationRecord, RunRecord, read_run

__all__ = ["EvaluationRecord", "Made", "RunRecord", "build", "read_run"]
