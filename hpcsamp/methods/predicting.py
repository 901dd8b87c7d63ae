"""Number of prediction samples, their division over ranks, and their random streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.methods.stepping import Stepping


class Predicting(Stepping):
    """A method that defines the samples of its predictive distribution.

    Parameters
    ----------
    samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.
    """

    #: Whether its predictive distribution draws weights from a stream.
    draws_weights: ClassVar[bool] = False
    #: Default S of the predictive distribution, for methods that can draw any number. A run that is
    #: trained with more samples predicts with as many: then each rank of any legal grid has one,
    #: and the number does not depend on the grid.
    usual_prediction_samples: int = 32
    #: Number of chains (or distributions) that prediction samples come from, each with several
    #: draws; they divide the samples in order (:func:`.share`). 0 if all draws are independent.
    chains: int = 0

    def __init__(self, samples_per_pass: int | Literal["auto"] = "auto") -> None:
        super().__init__(samples_per_pass)
        self._in_prediction = False
        #: Within :meth:`keeping_draws`: the last draws, with what identifies them.
        self._kept: dict[tuple[Any, ...], Tensor] | None = None
        self._room = 0

    def prediction_samples(self, asked: int | None) -> int:
        """Return S of the predictive distribution.

        Parameters
        ----------
        asked
            The requested number; None for the default.

        Raises
        ------
        UsageError
            If the method cannot predict with this number.
        """
        return self.usual_prediction_samples if asked is None else asked

    def prediction_share(self, samples: int, parts: int, part: int) -> range:
        """Return the prediction samples that a rank of a sample group evaluates.

        Raises
        ------
        UsageError
            If there are fewer samples than ranks.
        """
        if samples < parts:
            raise UsageError(
                f"the {samples} samples of the predictive distribution cannot be split over a "
                f"sample group of P = {parts} ranks; set evaluation.samples to at least {parts}, "
                f"or parallel.samples to a smaller group"
            )
        return share(samples, parts, part)

    def some_prediction_sample(self) -> range:
        """Return one prediction sample that this rank can evaluate."""
        return range(1)

    @property
    def in_prediction(self) -> bool:
        """Whether the method is within :meth:`predicting`."""
        return self._in_prediction

    @contextmanager
    def keeping_draws(self, room: int = 0) -> Iterator[None]:
        """Context in which draws of weights are kept, for samples that are evaluated on one batch
        after the other; no parameter may change.

        Parameters
        ----------
        room
            Bytes that the draws may take together; if they take more, only the last one is kept.
        """
        self._kept, self._room = {}, room
        try:
            yield
        finally:
            self._kept = None

    def kept_draw(self, name: tuple[Any, ...], draw: Callable[[], Tensor]) -> Tensor:
        """Draw, or return the kept draw; see :meth:`keeping_draws`.

        Parameters
        ----------
        name
            Name that identifies the draw.
        draw
            Function that draws; a draw with a gradient is not kept.
        """
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        if self._kept:  # the next draw is as large as the last one, and takes its place
            sizes = [weights.nbytes for weights in self._kept.values()]
            if sum(sizes) + sizes[-1] > self._room:
                self._kept.clear()
        weights = draw()
        if self._kept is not None and not weights.requires_grad:
            self._kept[name] = weights
        return weights

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Context that draws from the streams of prediction, which do not depend on the step."""
        before, self._in_prediction = self._in_prediction, True
        parts = [m for network in (self, *self.networks) for m in network.modules()]
        modes = [m.training for m in parts]
        self.eval()
        try:
            yield
        finally:
            self._in_prediction = before
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode  # restore each mode: a layer may always be in evaluation mode
