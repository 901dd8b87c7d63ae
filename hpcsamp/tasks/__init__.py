"""Kinds of tasks: the type of the targets, their predictions and their metrics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hpcsamp.names import TASKS

if TYPE_CHECKING:
    from hpcsamp.tasks.base import Found, Prediction, Tally, Task
    from hpcsamp.tasks.making import defaults, make
    from hpcsamp.tasks.targets import Targets, TargetsError
    from hpcsamp.tasks.views import View

# Imported on first use, because reports and ingests look up kinds without importing torch.
_HOME = {
    **dict.fromkeys(("Found", "Prediction", "Tally", "Task"), "hpcsamp.tasks.base"),
    **dict.fromkeys(("Targets", "TargetsError"), "hpcsamp.tasks.targets"),
    "View": "hpcsamp.tasks.views",
    **dict.fromkeys(("defaults", "make"), "hpcsamp.tasks.making"),
}

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


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hpcsamp.tasks' has no attribute {name!r}")
