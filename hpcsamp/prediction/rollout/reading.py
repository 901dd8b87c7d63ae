"""Read single items of a dataset in the form in which batches contain them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcsamp.data import Batch, Dataset
from hpcsamp.data.batch import Converter
from hpcsamp.data.order import GlobalBatch
from hpcsamp.prediction.posterior import Posterior


def read_items(posterior: Posterior, dataset: Dataset, items: Sequence[int] | np.ndarray) -> Batch:
    """Read some items with the standardisation of the run, in the order of batches. Serial."""
    convert = Converter(dataset, posterior.topology.device, posterior.run.dtype, normalize=True)
    at = np.asarray(items, np.int64)
    raw = dict(zip(("x", "y"), dataset.read(at), strict=True))
    return convert(GlobalBatch(at, np.ones(len(at))), len(at), raw)
