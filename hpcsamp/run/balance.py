"""Weights of classes from how often they occur in the training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcsamp import tasks
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.grid import together
from hpcsamp.run.kind import kind_of
from hpcsamp.tasks import Targets
from hpcsamp.tasks.multilabel import counts_of

if TYPE_CHECKING:
    from mpi4py import MPI

#: Items of a piece that is counted at once.
PIECE = 4096


def balance(config: RunConfig, comm: MPI.Comm) -> RunConfig:
    """A configuration with numbers for ``task.class_weights = "balanced"``. Collective.

    Rank 0 reads the labels of the training set.

    Raises
    ------
    DataError, UsageError
        If the set cannot be read; the same on every rank.
    """
    found = None
    with together(comm):
        if comm.Get_rank() == 0 and config.task.arguments:
            task = tasks.make(kind_of(config), config.task.arguments)
            if task.balance(torch.ones(2, 2)) is not None:
                with Dataset.open(config.data.path, "train") as dataset:
                    task.check(Targets.of(dataset.manifest))
                    found = task.balance(_counts(dataset))
    found = comm.bcast(found)
    if found is None:
        return config
    table = {**config.task.model_dump(), "class_weights": found}
    return config.model_copy(update={"task": type(config.task).model_validate(table)})


def _counts(dataset: Dataset) -> torch.Tensor:
    """``(*y_shape, C)`` how often each label occurs; missing ones do not count."""
    assert dataset.classes is not None
    total = torch.zeros(*dataset.y_shape, dataset.classes, dtype=torch.float64)
    for start in range(0, dataset.count, PIECE):
        rows = np.arange(start, min(start + PIECE, dataset.count))
        y = torch.from_numpy(dataset.read_array("y", rows))
        total += counts_of(y, dataset.classes)
    return total
