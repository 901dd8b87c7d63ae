"""New projects: a network to edit, a configuration, job scripts and a test for a dataset."""

from hpcsamp.project.write import write

__all__ = ["write"]
