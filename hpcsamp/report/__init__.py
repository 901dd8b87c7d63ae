"""Pictures and a page from the record of a run."""

from __future__ import annotations

from hpcsamp.report.build import Made, build
from hpcsamp.report.records import Evaluation, Run, read_run

__all__ = ["Evaluation", "Made", "Run", "build", "read_run"]
