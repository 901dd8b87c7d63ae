"""Call user code during a run.

``training.callbacks = ["package.module:Class"]`` names subclasses of :class:`Callback`, or tables
``{name = "package.module:Class", argument = ...}``; ``hs.fit(..., callbacks=[...])`` takes objects.
Early stopping is also a callback (:mod:`.patience`).
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
    """The state of a run that callbacks may read; :meth:`stop` ends the run.

    Attributes
    ----------
    config, method
        Configuration and method. Weights may be read; any change must be the same on all ranks.
    folder
        Folder of the run; only rank 0 should write to it.
    rank
        Index of this rank.
    steps, steps_per_epoch
        Total number of steps of the run, and steps per epoch.
    step, epoch
        Number of steps done, and the epoch (from 0) of the last one.
    loss, data, penalty
        Loss of the last step and its two terms, over all ranks; NaN before the first step.
    lr
        Learning rate of the first parameter group in the last step.
    metrics
        Metrics of the last evaluation, the same on all ranks; empty before the first.
    metric, score
        Name of the metric ``training.best``, and its value with the sign for which lower is better.
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
        """Whether this is rank 0, the only rank that prints and writes."""
        return self.rank == 0

    def stop(self, reason: str) -> None:
        """End the run after this call on all ranks; any rank may request it.

        Parameters
        ----------
        reason
            Reason that is printed and written to ``summary.json``.
        """
        self._reason = self._reason or reason


class Callback:
    """Base class of callbacks, which are called on every rank in the order of the configuration.

    Subclasses override the methods that they need. An exception on one rank ends the run on all of
    them with one line. The methods must not communicate between ranks. ``after_step`` costs two
    exchanges of one value per step; the others are called less often.
    """

    def begin(self, at: Moment) -> None:
        """Called before the first step of this start, after a state has been restored."""

    def after_step(self, at: Moment) -> None:
        """Called after each step of the optimiser."""

    def after_evaluation(self, at: Moment) -> None:
        """Called once after each evaluation of the ``valid`` split."""

    def end(self, at: Moment) -> None:
        """Called after the last step, before ``summary.json`` is written.

        It is not called if the run was interrupted and will be resumed.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints: tables, lists, tensors, numbers and strings.

        The state of rank 0 is saved.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`state_dict` returned."""


class Callbacks:
    """All callbacks of a run. The constructor and :meth:`call` are collective over the world.

    Parameters
    ----------
    callbacks
        Callbacks in the order in which they are called.
    topology
        Grid of ranks.
    """

    def __init__(self, callbacks: Sequence[Callback], topology: Topology) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise UsageError(
                    f"training.callbacks: {shown(callback)} is not an instance of a subclass of "
                    f"hpcsamp.training.callbacks.Callback"
                )
        self._named = _by_name(callbacks)
        self._world = topology.world
        self._calls = {
            verb: [c for c in callbacks if getattr(type(c), verb) is not getattr(Callback, verb)]
            for verb in ("begin", "after_step", "after_evaluation", "end")
        }

    def call(self, verb: str, at: Moment) -> str:
        """Call a method of all callbacks that override it; return why the run ends, or "".

        Raises
        ------
        HpcsampError
            If a callback raises on any rank; on all ranks.
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
        """Return the states of all callbacks that have one, by name."""
        found = {}
        for name, callback in self._named.items():
            state = callback.state_dict()
            fault = _not_plain(state)
            if fault:
                raise UsageError(
                    f"training.callbacks: the state of {name} contains {fault}; a checkpoint can "
                    f"hold tables, lists, tensors, numbers and strings"
                )
            if state:
                found[name] = state
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states; a callback without a saved state starts anew."""
        for name, callback in self._named.items():
            if name in state:
                callback.load_state_dict(state[name])


def _by_name(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Callbacks by the name of their class; several of one class are numbered."""
    found: dict[str, Callback] = {}
    for callback in callbacks:
        kind = f"{type(callback).__module__}:{type(callback).__qualname__}"
        number = 1
        while f"{kind} {number}" in found:
            number += 1
        found[f"{kind} {number}"] = callback
    return found


def _not_plain(state: Any) -> str:
    """Name of a type in a state that could be read by unpickling only; empty if there is none."""
    if isinstance(state, Mapping):
        keys = (_not_plain(k) for k in state)
        return next(filter(None, (*keys, *map(_not_plain, state.values()))), "")
    if isinstance(state, list | tuple):
        return next(filter(None, map(_not_plain, state)), "")
    plain = type(state) in (bool, int, float, str, type(None), torch.Tensor)
    return "" if plain else f"a {type(state).__name__}"
