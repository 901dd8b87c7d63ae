"""Forecasts of runs and of statistical baselines over the same rolling origins of a series set."""
