"""Code of the user's own that is called in the course of a run.

``training.callbacks = ["package.module:Class"]`` names subclasses of :class:`Callback`, or tables
``{name = "package.module:Class", argument = ...}``; ``hs.fit(..., callbacks=[...])`` takes objects.
Early stopping is one, too (:mod:`.patience`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.spelling import shown


@dataclass
class Moment:
    """What a callback sees of the run. To read, but for :meth:`stop`.

    Attributes
    ----------
    config, method
        Of the run. The weights may be looked at in any way; a change must be the same on all ranks.
    folder
        Of the run; only rank 0 should write there.
    rank
        This rank.
    steps, steps_per_epoch
        Of the whole run, and of an epoch.
    step, epoch
        Steps done, and the epoch (from 0) of the last one.
    loss, data, penalty
        Of the last step, over all ranks; NaN before the first.
    lr
        Learning rate of the last step, of the first group of parameters.
    metrics
        Of the last evaluation, the same on all ranks; empty before the first.
    metric, score
        Name of the one of ``training.best``, and its value with the sign by which less is better.
    """

    config: RunConfig
    method: Method
    folder: Path
    rank: int
    steps: int
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    loss: float = float("nan")
    data: float = float("nan")
    penalty: float = float("nan")
    lr: float = float("nan")
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""
    score: float = float("nan")
    _reason: str = ""

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def stop(self, reason: str) -> None:
        """End the run after this call, on all ranks, whichever of them asks for it.

        Parameters
        ----------
        reason
            For people and for ``summary.json``.
        """
        self._reason = self._reason or reason


class Callback:
    """Called by a run on every rank, in the order of the configuration.

    Subclasses override what they need. What raises on one rank ends the run on all of them with one
    line. The methods must not communicate between ranks. ``after_step`` costs two exchanges of a
    number a step; the others are called now and then.
    """

    def begin(self, at: Moment) -> None:
        """Before the first step of this start; after a state has been loaded."""

    def after_step(self, at: Moment) -> None:
        """After each step of the optimiser."""

    def after_evaluation(self, at: Moment) -> None:
        """After each evaluation of the valid split, once for each."""

    def end(self, at: Moment) -> None:
        """After the last step, before ``summary.json`` is written. Not of a run that is
        interrupted, which goes on later.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint should hold: tables, lists, tensors, numbers and strings.

        That of rank 0 is kept.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` had returned."""


class Callbacks:
    """The callbacks of a run. Collective over the world, as is :meth:`call`.

    Parameters
    ----------
    callbacks
        In the order in which they are called.
    topology
        The grid.
    """

    def __init__(self, callbacks: Sequence[Callback], topology: Topology) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise UsageError(
                    f"training.callbacks: {shown(callback)} is no object of a subclass of "
                    f"hpcsamp.training.callbacks.Callback"
                )
        self._named = _by_name(callbacks)
        self._world = topology.world
        self._calls = {
            verb: [c for c in callbacks if getattr(type(c), verb) is not getattr(Callback, verb)]
            for verb in ("begin", "after_step", "after_evaluation", "end")
        }

    def call(self, verb: str, at: Moment) -> str:
        """Call all that override a method; returns why the run is to end, empty if it is not.

        Raises
        ------
        HpcsampError
            On all ranks, if one of them raises on any.
        """
        called = self._calls[verb]
        if not called:
            return ""
        with together(self._world):
            for callback in called:
                try:
                    getattr(callback, verb)(at)
                except UsageError:
                    raise
                except Exception as e:
                    where = f"{type(callback).__qualname__}.{verb} at step {at.step}"
                    raise RuntimeError(f"{where}: {type(e).__name__}: {e}") from e
        return next(filter(None, self._world.allgather(at._reason)), "")

    def state_dict(self) -> dict[str, Any]:
        """The state of each that has one, by name."""
        found = {}
        for name, callback in self._named.items():
            state = callback.state_dict()
            fault = _not_plain(state)
            if fault:
                raise UsageError(
                    f"training.callbacks: the state of {name} holds {fault}; a checkpoint holds "
                    f"tables, lists, tensors, numbers and strings"
                )
            if state:
                found[name] = state
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; a callback that is new begins anew."""
        for name, callback in self._named.items():
            if name in state:
                callback.load_state_dict(state[name])


def _by_name(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """By class, numbered where there are several of one."""
    found: dict[str, Callback] = {}
    for callback in callbacks:
        kind = f"{type(callback).__module__}:{type(callback).__qualname__}"
        number = 1
        while f"{kind} {number}" in found:
            number += 1
        found[f"{kind} {number}"] = callback
    return found


def _not_plain(state: Any) -> str:
    """What of a state cannot be read back without running code of others; empty if all can."""
    if isinstance(state, Mapping):
        keys = (_not_plain(k) for k in state)
        return next(filter(None, (*keys, *map(_not_plain, state.values()))), "")
    if isinstance(state, list | tuple):
        return next(filter(None, map(_not_plain, state)), "")
    plain = type(state) in (bool, int, float, str, type(None), torch.Tensor)
    return "" if plain else f"a {type(state).__name__}"
