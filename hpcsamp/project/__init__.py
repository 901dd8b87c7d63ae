"""A project of one's own: a network, a configuration, job scripts and a test for a dataset."""

from hpcsamp.project.write import write

__all__ = ["write"]
