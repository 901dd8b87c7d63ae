"""The paper's figures and table, from records of runs and of ``hpcsamp bench scaling``."""

from __future__ import annotations

from hpcsamp.report.figures.draw import FIGURES, draw, figure_of

__all__ = ["FIGURES", "draw", "figure_of"]
