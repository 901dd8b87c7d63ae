"""Ingest raw data into dataset folders: a source for each file format, written by :func:`build`."""

from hpcsamp.ingest.build import build
from hpcsamp.ingest.source import Source

__all__ = ["Source", "build"]
