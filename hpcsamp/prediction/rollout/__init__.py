"""Forecast any number of steps by applying a network repeatedly to its own outputs."""
