"""Benchmarks. Each is a command of ``hpcsamp bench``; tests never depend on measured times."""
