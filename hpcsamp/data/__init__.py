"""Datasets on disk and batches in memory: read once per sample group."""

from hpcsamp.data.batch import Batch
from hpcsamp.data.dataset import Dataset
from hpcsamp.data.loader import Loader
from hpcsamp.data.manifest import Manifest

__all__ = ["Batch", "Dataset", "Loader", "Manifest"]
