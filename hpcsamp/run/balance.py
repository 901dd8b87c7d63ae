"""Class weights from the frequency of classes in the training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcsamp import tasks
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.grid import together
from hpcsamp.run.kind import SEVERAL, completed, kind_of
from hpcsamp.tasks import Targets
from hpcsamp.tasks.multilabel import counts_of
from hpcsamp.tasks.several import Several

if TYPE_CHECKING:
    from mpi4py import MPI

#: Number of items whose labels are counted at once.
PIECE = 4096


def balance(config: RunConfig, comm: MPI.Comm) -> RunConfig:
    """Replace ``task.class_weights = "balanced"`` in a configuration by factors. Collective.

    Rank 0 reads the labels of the training set.

    Raises
    ------
    DataError, UsageError
        If the dataset cannot be read; the same on every rank.
    """
    found = None
    with together(comm):
        if comm.Get_rank() == 0 and config.task.arguments:
            config = completed(config)
            task = tasks.make(kind_of(config), config.task.arguments)
            each = {"y": task}
            if isinstance(task, Several):
                each = {name: of.task for name, of in task.outputs.items()}
            open_ones = [n for n, of in each.items() if of.balance(torch.ones(2, 2)) is not None]
            if open_ones:
                with Dataset.open(config.data.path, "train") as dataset:
                    task.check(Targets.of(dataset.manifest))
                    found = {n: each[n].balance(_counts(dataset, n)) for n in open_ones}
    found = comm.bcast(found)
    if found is None:
        return config
    table = completed(config).task.model_dump()
    for name, weights in found.items():
        of = table["outputs"][name] if table["kind"] == SEVERAL else table
        of["class_weights"] = weights
    return config.model_copy(update={"task": type(config.task).model_validate(table)})


def _counts(dataset: Dataset, target: str) -> torch.Tensor:
    """Count how often each label occurs, ``(*shape, C)``; missing labels do not count."""
    classes = dataset.targets[target].classes
    assert classes is not None
    shape = dataset.manifest.arrays[target].shape
    total = torch.zeros(*shape, classes, dtype=torch.float64)
    for start in range(0, dataset.count, PIECE):
        rows = np.arange(start, min(start + PIECE, dataset.count))
        y = torch.from_numpy(dataset.read_array(target, rows))
        total += counts_of(y, classes)
    return total
