"""Raw data into dataset folders. One source a file; :func:`build` writes any of them."""

from hpcsamp.ingest.build import build
from hpcsamp.ingest.source import Source

__all__ = ["Source", "build"]
