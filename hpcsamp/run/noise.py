"""The form of noise of a run: which numbers it draws, see :mod:`hpcsamp.streams.noise`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcsamp.errors import CheckpointError, UsageError
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.streams.noise import form


def check(path: Path, saved: Mapping[str, Any], now: str) -> None:
    """Refuse to go on with noise of another form than the run had so far.

    Parameters
    ----------
    path, saved
        The checkpoint, and what is in it.
    now
        The form on this rank's device.

    Raises
    ------
    CheckpointError
        Naming both forms.
    """
    before = saved.get("noise", now)
    if before != now:
        where = " on CPUs" if before == "native" else ""
        raise CheckpointError(
            f"checkpoint {path} is of a run with {before} noise, this one would draw {now} noise, "
            f"which has other numbers; go on{where} with HPCSAMP_NOISE={before}"
        )


def check_draws(path: Path, saved: Mapping[str, Any], method: Method) -> None:
    """Refuse to go on with other draws than the run had so far, e.g. of dropout masks.

    Raises
    ------
    CheckpointError
        If the checkpoint was written when the method still drew from other streams.
    """
    if saved.get("draws", 1) != method.draws:
        raise CheckpointError(
            f"checkpoint {path} was written before the draws of {type(method).__name__} became "
            f"others (they were number {saved.get('draws', 1)}, are {method.draws}): evaluate and "
            f"predict read it, but no run goes on from it with other noise; train anew into "
            f"another --output"
        )


def draws_of_prediction(path: Path, saved: Mapping[str, Any], method: Method) -> None:
    """Say on standard error if predictions are of other draws than those of the run."""
    if saved.get("draws", 1) != method.draws:
        sys.stderr.write(
            f"hpcsamp: checkpoint {path} was written before the draws of {type(method).__name__} "
            f"became others: predictions are of other samples of the same distribution than "
            f"before\n"
        )


def of_prediction(path: Path, saved: Mapping[str, Any], topology: Topology) -> None:
    """Say it if predictions are of other draws than those of the run. Collective over the world.

    Raises
    ------
    UsageError
        If ranks would draw different forms; the same on all ranks.
    """
    with together(topology.world):
        now = form(topology.device)
    forms = topology.world.allgather(now)
    with together(topology.world):
        for rank, other in enumerate(forms):
            if other != forms[0]:
                raise UsageError(
                    f"ranks must have the same form of the noise (HPCSAMP_NOISE), which is "
                    f"{forms[0]} on rank 0 and {other} on rank {rank}"
                )
    before = saved.get("noise", now)
    if before != now and topology.is_root:
        sys.stderr.write(
            f"hpcsamp: checkpoint {path} is of a run with {before} noise, here it is {now}: "
            f"predictions are of other samples of the same distribution\n"
        )
