"""Counter-based random numbers: every draw is a pure function of seed, purpose and counters.

A stream is identified by (seed, purpose, counters...), and depends neither on the rank nor on
earlier draws, so a run draws the same numbers on any grid and after any restart (design law 1).
"""

from hpcsamp.streams.names import Purpose, key, numpy_generator, torch_generator

__all__ = ["Purpose", "key", "numpy_generator", "torch_generator"]
