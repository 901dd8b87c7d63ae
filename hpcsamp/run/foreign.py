"""Targets of a set that was made for another kind of task than the run's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp import tasks
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.grid import together
from hpcsamp.run.kind import kind_of
from hpcsamp.tasks import Task

if TYPE_CHECKING:
    from mpi4py import MPI

#: Items of a piece that is looked at once.
PIECE = 4096


def check_values(config: RunConfig, comm: MPI.Comm) -> None:
    """Refuse values that the run's kind of task does not have, such as 2.5 among counts.

    A set that was made for this kind has been checked when it was made. Collective; rank 0 reads
    the targets for training.

    Raises
    ------
    DataError
        With the first such value; the same on every rank.
    """
    with together(comm):
        if comm.Get_rank() or config.task.kind is None:
            return
        task = tasks.make(kind_of(config), config.task.arguments)
        if type(task).check_values is Task.check_values:
            return
        with Dataset.open(config.data.path, "train") as dataset:
            if dataset.task == task.kind or dataset.has_several_targets:
                return
            for start in range(0, dataset.count, PIECE):
                rows = np.arange(start, min(start + PIECE, dataset.count))
                where = f"{dataset.path}: y of items {rows[0]}-{rows[-1]} of train"
                task.check_values(dataset.read_array("y", rows), where)
