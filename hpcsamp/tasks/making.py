"""Construct tasks from the table ``[task]`` of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp import arguments as free
from hpcsamp.names import TASKS
from hpcsamp.tasks.base import Task


def make(kind: str, arguments: Mapping[str, Any] | None = None, key: str = "task") -> Task:
    """Construct a task by its name.

    Parameters
    ----------
    kind
        A key of ``TASKS``, or a class of the user's own as ``package.module:Class``.
    arguments
        Arguments of its constructor.
    key
        Configuration table that the arguments come from; used in messages.

    Raises
    ------
    UsageError
        If the name or an argument is unknown, or an argument has the wrong type.
    """
    made: Task = free.construct(key, kind, TASKS.find(kind), arguments or {})
    made.kind, made.key = kind, key
    return made


def defaults(kind: str) -> dict[str, Any]:
    """Return the default values of the arguments of a task."""
    return free.defaults(TASKS.find(kind))
