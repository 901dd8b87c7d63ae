"""Measured experiments. Each is a command, never a timed test."""
