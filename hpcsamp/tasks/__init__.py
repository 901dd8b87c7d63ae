"""Kinds of tasks: what the targets of a set are, and what is predicted and measured of them."""

from hpcsamp.names import TASKS
from hpcsamp.tasks.base import Found, Prediction, Tally, Targets, TargetsError, Task, View
from hpcsamp.tasks.making import defaults, make

__all__ = [
    "TASKS",
    "Found",
    "Prediction",
    "Tally",
    "Targets",
    "TargetsError",
    "Task",
    "View",
    "defaults",
    "make",
]
