"""Methods by name, as configurations say them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.methods.base import Method
from hpcsamp.methods.ensemble import Ensemble
from hpcsamp.methods.flipout import Flipout
from hpcsamp.methods.last_layer import LastLayer
from hpcsamp.methods.local_reparameterisation import LocalReparameterisation
from hpcsamp.methods.mc_dropout import MCDropout
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.methods.sgld import Chains
from hpcsamp.methods.swag import SWAG
from hpcsamp.spelling import suggest

METHODS: dict[str, type[Method]] = {
    "mean_field": MeanField,
    "ensemble": Ensemble,
    "flipout": Flipout,
    "last_layer": LastLayer,
    "local_reparameterisation": LocalReparameterisation,
    "mc_dropout": MCDropout,
    "sgld": Chains,
    "swag": SWAG,
}

#: Arguments that the program passes, not the configuration.
PROGRAM = {
    "seed", "samples_per_pass", "autocast", "module", "network", "samples", "own", "bayesian"
}  # fmt: skip


def make(
    name: str,
    network: Callable[[int | None], nn.Module],
    arguments: Mapping[str, Any],
    *,
    samples: int,
    own: range,
    seed: int,
    samples_per_pass: int = 1,
    autocast: torch.dtype | None = None,
) -> Method:
    """The method of a run.

    Parameters
    ----------
    name
        A key of ``METHODS``.
    network
        See :meth:`Method.create`.
    arguments
        Further arguments of the method's class.
    samples, own
        S, and which of them this rank evaluates in training.
    seed, samples_per_pass, autocast
        See :class:`~hpcsamp.methods.base.Method`.

    Raises
    ------
    UsageError
        For an unknown name or argument, or values that the method refuses.
    """
    kind = _find(name)
    program = {"seed": seed, "samples_per_pass": samples_per_pass, "autocast": autocast}
    checked = free.check("method", repr(name), kind, arguments, PROGRAM)
    return kind.create(network, samples, own, **program, **checked)


def defaults(name: str) -> dict[str, Any]:
    """What a method's arguments are if nobody says, by name."""
    return free.defaults(_find(name), PROGRAM)


def _find(name: str) -> type[Method]:
    if name not in METHODS:
        raise UsageError(
            f"method.name = {name!r}{suggest(name, METHODS)}; there is {', '.join(METHODS)}"
        )
    return METHODS[name]
