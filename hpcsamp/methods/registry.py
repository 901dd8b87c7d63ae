"""Create methods by the names used in configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.methods.base import Method
from hpcsamp.names import METHODS

#: Arguments that are passed by the program rather than by the configuration.
PROGRAM = {
    "seed", "samples_per_pass", "autocast", "module", "network", "samples", "own"
}  # fmt: skip


def make(
    name: str,
    network: Callable[[int | None], nn.Module],
    arguments: Mapping[str, Any],
    *,
    samples: int,
    own: range,
    seed: int,
    samples_per_pass: int | Literal["auto"] = "auto",
    strategy: str = "auto",
    autocast: torch.dtype | None = None,
) -> Method:
    """Create the method of a run.

    Parameters
    ----------
    name
        A key of ``METHODS``, or a class of the user's own as ``package.module:Class``.
    network
        See :meth:`Method.create`.
    arguments
        Further arguments of the method's class.
    samples, own
        S, and the samples that this rank evaluates in training.
    seed, samples_per_pass, strategy, autocast
        See :class:`~hpcsamp.methods.base.Method`.

    Raises
    ------
    UsageError
        If a name or argument is unknown, or the method refuses a value.
    """
    kind: type[Method] = METHODS.find(name)
    program = {"seed": seed, "samples_per_pass": samples_per_pass, "autocast": autocast}
    checked = free.check("method", repr(name), kind, arguments, PROGRAM)
    try:
        made = kind.create(network, samples, own, **program, **checked)
    except (TypeError, ValueError) as e:
        raise UsageError(f"method {name!r}: {e}") from e
    made.strategy = strategy
    return made


def defaults(name: str) -> dict[str, Any]:
    """Return the default values of a method's arguments, by its name."""
    return free.defaults(METHODS.find(name), PROGRAM)
