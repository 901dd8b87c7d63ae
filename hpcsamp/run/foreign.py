"""Check targets of a dataset that was made for another kind of task than the run's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpcsamp import tasks
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.grid import together
from hpcsamp.run.kind import completed, kind_of
from hpcsamp.tasks import Task
from hpcsamp.tasks.several import Several

if TYPE_CHECKING:
    from mpi4py import MPI

#: Number of items whose targets are checked at once.
PIECE = 4096


def check_values(config: RunConfig, comm: MPI.Comm) -> None:
    """Refuse target values that are invalid for the run's kind of task, such as 2.5 among counts.

    A dataset made for this kind of task has already been checked. Collective; rank 0 reads the
    training targets.

    Raises
    ------
    DataError
        If a value is invalid; the message contains the first one and is the same on every rank.
    """
    with together(comm):
        if comm.Get_rank() or not (config.task.kind or config.task.arguments):
            return
        config = completed(config)
        task = tasks.make(kind_of(config), config.task.arguments)
        each = {"y": task}
        if isinstance(task, Several):
            each = {name: of.task for name, of in task.outputs.items()}
        picky = {n: of for n, of in each.items() if type(of).check_values is not Task.check_values}
        if not picky:
            return
        with Dataset.open(config.data.path, "train") as dataset:
            for name, of in picky.items():
                if name in dataset.targets and dataset.targets[name].task != of.kind:
                    _check(dataset, name, of)


def _check(dataset: Dataset, target: str, task: Task) -> None:
    for start in range(0, dataset.count, PIECE):
        rows = np.arange(start, min(start + PIECE, dataset.count))
        where = f"{dataset.path}: {target} of items {rows[0]}-{rows[-1]} of train"
        task.check_values(dataset.read_array(target, rows), where)
