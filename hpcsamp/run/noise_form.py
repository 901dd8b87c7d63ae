"""Check that a resumed run draws the same noise as before, see :mod:`hpcsamp.streams.noise`."""

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
    """Refuse to resume if this device draws weight noise with another generator than before.

    Parameters
    ----------
    path, saved
        Checkpoint and its content.
    now
        Form of noise on this rank's device.

    Raises
    ------
    CheckpointError
        If the forms differ; the message contains both.
    """
    before = saved.get("noise", now)
    if before != now:
        where = " on CPUs" if before == "native" else ""
        raise CheckpointError(
            f"checkpoint {path} belongs to a run with {before} noise, but this one would draw "
            f"{now} noise, which differs; resume{where} with HPCSAMP_NOISE={before}"
        )


def check_draws(path: Path, saved: Mapping[str, Any], method: Method) -> None:
    """Refuse to resume if the method's random draws have changed, e.g. of dropout masks.

    Raises
    ------
    CheckpointError
        If the checkpoint was written by a version whose method drew from other streams.
    """
    if saved.get("draws", 1) != method.draws:
        raise CheckpointError(
            f"checkpoint {path} was written before the random draws of {type(method).__name__} "
            f"changed (version {saved.get('draws', 1)}, now {method.draws}): evaluate and "
            f"predict can read it, but training cannot resume from it; train again with "
            f"another --output"
        )


def draws_of_prediction(path: Path, saved: Mapping[str, Any], method: Method) -> None:
    """Report on standard error that predictions use other random draws than the run did."""
    if saved.get("draws", 1) != method.draws:
        sys.stderr.write(
            f"hpcsamp: checkpoint {path} was written before the random draws of "
            f"{type(method).__name__} changed: predictions use other samples of the same "
            f"distribution than before\n"
        )


def of_prediction(path: Path, saved: Mapping[str, Any], topology: Topology) -> None:
    """Report if predictions draw noise with another generator than the run. Collective.

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
                    f"all ranks must use the same form of noise (HPCSAMP_NOISE), which is "
                    f"{forms[0]} on rank 0 and {other} on rank {rank}"
                )
    before = saved.get("noise", now)
    if before != now and topology.is_root:
        sys.stderr.write(
            f"hpcsamp: checkpoint {path} belongs to a run with {before} noise, but this machine "
            f"draws {now} noise: predictions use other samples of the same distribution\n"
        )
