"""Figures and table of the paper, from run folders and records of ``hpcsamp bench scaling``."""

from __future__ import annotations

from hpcsamp.report.figures.draw import FIGURES, draw, figure_of

__all__ = ["FIGURES", "draw", "figure_of"]
