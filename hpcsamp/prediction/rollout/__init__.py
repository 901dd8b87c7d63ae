"""Forecasts to any lead time: a network is applied to its own outputs again and again."""
