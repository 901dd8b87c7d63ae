"""Reports of runs: figures and an HTML page, drawn from the files in run folders."""

from __future__ import annotations

from hpcsamp.report.build import ReportFiles, build
from hpcsamp.report.records import EvaluationRecord, RunRecord, read_run

__all__ = ["EvaluationRecord", "ReportFiles", "RunRecord", "build", "read_run"]
