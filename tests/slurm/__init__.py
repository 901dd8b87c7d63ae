"""Tests on a real Slurm of two pretended nodes, with real environment modules."""
