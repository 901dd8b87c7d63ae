"""Tasks from the table ``[task]`` of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcsamp import arguments as free
from hpcsamp.names import TASKS
from hpcsamp.tasks.base import Task


def make(kind: str, arguments: Mapping[str, Any] | None = None, key: str = "task") -> Task:
    """A task by its name.

    Parameters
    ----------
    kind
        A key of ``TASKS``, or a class of the user's own as ``package.module:Class``.
    arguments
        Of its constructor.
    key
        Of the table that they are from, for messages.

    Raises
    ------
    UsageError
        For an unknown name or argument, or one of another type.
    """
    made: Task = free.construct(key, kind, TASKS.find(kind), arguments or {})
    made.kind, made.key = kind, key
    return made


def defaults(kind: str) -> dict[str, Any]:
    """Default values of the arguments of a task."""
    return free.defaults(TASKS.find(kind))
