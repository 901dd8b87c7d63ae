"""Steps of a method, between which the state of its modules advances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.methods.holding import Holding
from hpcsamp.weights import Place, Put
from hpcsamp.weights.group import Group
from hpcsamp.weights.state import NORMS, State


class Stepping(Holding):
    """A method that knows its step and the state that its modules keep from step to step.

    Parameters
    ----------
    samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.
    """

    def __init__(self, samples_per_pass: int | Literal["auto"] = "auto") -> None:
        super().__init__(samples_per_pass)
        self._step = 0
        self._state = State()

    @property
    def state(self) -> State:
        """What passes of the modules leave (:mod:`hpcsamp.weights.state`)."""
        return self._state

    @property
    def step(self) -> int:
        """The step to draw for when a call does not say; another one ends the step before.

        :func:`hpcsamp.distribute` advances it. State that passes with gradients have left since the
        last step then becomes that of the modules, which is collective where there are several
        ranks.
        """
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        if step != self._step and self._state.pending:
            self._state.advance(self._holders())
        if step != self._step:
            self._state.estimates.forget()
        self._step = step

    def join(self, group: Group) -> None:
        """Have batch statistics and state in common with a data group.

        Called by :func:`hpcsamp.distribute`; a single process needs no group.
        """
        self._state.group = group

    @property
    def batch_norm(self) -> str:
        """By what batch normalisation goes in training.

        ``"batch"`` is the whole batch of a step, ``"frozen"`` the running statistics, and with
        ``"group"`` there is to be none.
        """
        return self._state.norm

    @batch_norm.setter
    def batch_norm(self, how: str) -> None:
        if how not in NORMS:
            raise UsageError(f"batch_norm = {how!r}; there is {', '.join(NORMS)}")
        self._state.norm = how

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        """See :meth:`torch.nn.Module.load_state_dict`; what passes have left is forgotten."""
        self._state.forget()
        return super().load_state_dict(*arguments, **named)

    @property
    def estimates_statistics(self) -> bool:
        """Whether its predictions are of weights that no running statistics were kept of."""
        return False

    def _estimated(self, place: Place) -> dict[str, Tensor]:
        """Running statistics of the samples of a pass where they have been estimated."""
        return self._state.estimates.of_samples(place.samples) if place.prediction else {}

    def _share_state(self, puts: Sequence[Put]) -> None:
        """Let the passes of some modules leave their state with this method."""
        for put in puts:
            put.state = self._state

    def _holders(self) -> Sequence[tuple[Put, Sequence[int] | None]]:
        """The modules, each with the samples that it is for; None for all."""
        return ()
