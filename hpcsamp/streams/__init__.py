"""Counter-based randomness: every draw is a pure function of what it is for.

A stream is named by (seed, purpose, counters...), never by a rank and never by how much was drawn
before, so a run draws the same numbers on any grid and after any restart (law 1).
"""

from hpcsamp.streams.names import Purpose, key, numpy_generator, torch_generator

__all__ = ["Purpose", "key", "numpy_generator", "torch_generator"]
