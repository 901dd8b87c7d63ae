"""Scorecards of forecasts: tables of skill, curves by lead time, rank histograms and maps."""
