"""Count the steps of a method, and advance the state of its modules between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.methods.holding import Holding
from hpcsamp.weights import Place, Put
from hpcsamp.weights.data_group import DataGroupLike
from hpcsamp.weights.state import NORMS, State


class Stepping(Holding):
    """A method that counts steps and manages the state that its modules keep between steps.

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
        """State that passes of the modules leave behind (:mod:`hpcsamp.weights.state`)."""
        return self._state

    @property
    def step(self) -> int:
        """Step from which draws are made by default; setting another one ends the current step.

        :func:`hpcsamp.distribute` advances it. The state that passes with gradients have left since
        the last step then becomes that of the modules, which is collective over several ranks.
        """
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        if step != self._step and self._state.pending:
            self._state.advance(self._holders())
        if step != self._step:
            self._state.estimates.forget()
        self._step = step

    def join(self, group: DataGroupLike) -> None:
        """Share batch statistics and state with a data group.

        Called by :func:`hpcsamp.distribute`; not needed in a single process.
        """
        self._state.group = group

    @property
    def batch_norm(self) -> str:
        """Statistics that batch normalisation uses in training.

        ``"batch"``: of the whole batch of a step; ``"frozen"``: the running statistics;
        ``"group"``: the network must not contain batch normalisation.
        """
        return self._state.norm

    @batch_norm.setter
    def batch_norm(self, how: str) -> None:
        if how not in NORMS:
            raise UsageError(f"batch_norm = {how!r}; choose from {', '.join(NORMS)}")
        self._state.norm = how

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        """See :meth:`torch.nn.Module.load_state_dict`; forgets the state that passes have left."""
        self._state.forget()
        return super().load_state_dict(*arguments, **named)

    @property
    def estimates_statistics(self) -> bool:
        """Whether predictions use weights for which there are no running statistics."""
        return False

    def _estimated(self, place: Place) -> dict[str, Tensor]:
        """Running statistics of the samples of a pass, if they have been estimated."""
        return self._state.estimates.of_samples(place.samples) if place.prediction else {}

    def _share_state(self, puts: Sequence[Put]) -> None:
        """Store the state that passes of some modules leave in this method."""
        for put in puts:
            put.state = self._state

    def _holders(self) -> Sequence[tuple[Put, Sequence[int] | None]]:
        """Pairs of a module and the samples that it evaluates; None for all samples."""
        return ()
