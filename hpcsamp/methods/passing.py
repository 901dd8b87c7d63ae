"""Choose how many samples a method evaluates in each pass, and by which strategy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.weights import Passes, check_strategy, choice, inputs_of, refusals
from hpcsamp.weights.inputs import tensors
from hpcsamp.weights.strategies import COMPILED

AUTO: Literal["auto"] = "auto"
NAMES = {False: "training", True: "prediction"}
ALL = 1 << 30
"""Chunk size that puts all samples of a rank into one chunk."""


class Passing(nn.Module):
    """Evaluates samples in chunks, with separate choices for training and prediction.

    Parameters
    ----------
    samples_per_pass
        Number of samples in a chunk. With ``"auto"`` it is that of :attr:`usual` until
        :meth:`choose` has measured which number is fastest.

    Raises
    ------
    UsageError
        If ``samples_per_pass`` is neither ``"auto"`` nor at least 1.
    """

    #: Chunk and strategy for "auto" until something is chosen.
    usual: ClassVar[Passes] = Passes()

    def __init__(self, samples_per_pass: int | Literal["auto"] = AUTO) -> None:
        super().__init__()
        if samples_per_pass != AUTO and not (
            isinstance(samples_per_pass, int) and samples_per_pass >= 1
        ):
            raise UsageError(
                f'method.samples_per_pass = {samples_per_pass!r} must be "auto" or at least 1'
            )
        self._strategy: str = AUTO
        self._settled: set[bool] = set()
        #: Whether passes in training are compiled (:mod:`hpcsamp.methods.compiling`).
        self.compiled = False
        self.samples_per_pass = samples_per_pass

    @property
    @abstractmethod
    def in_prediction(self) -> bool:
        """Whether the method is predicting."""

    @abstractmethod
    def trying(self) -> AbstractContextManager[None]:
        """See :meth:`Method.trying`."""

    @abstractmethod
    def accumulating(self) -> AbstractContextManager[Accumulator]:
        """See :meth:`Method.accumulating`."""

    def early(self) -> Sequence[Sequence[tuple[str, slice]]]:
        """Return the parts of the gradient that are complete one after the other in the last
        backward pass of :meth:`Method.accumulating`, in the order of the layers.

        A part is a list of names of flat parameters, each with a slice; together the parts cover
        all trained parameters. Empty if the accumulator has no such parts.
        """
        return ()

    @property
    def samples_per_pass(self) -> int:
        """Current number of samples of a chunk; may be set to a number or to ``"auto"``."""
        return self.passes.chunk

    @samples_per_pass.setter
    def samples_per_pass(self, asked: int | Literal["auto"]) -> None:
        self._asked = dict.fromkeys((False, True), asked)
        self._forget_choice()

    def predict_per_pass(self, asked: int | Literal["auto"]) -> None:
        """Set the size of chunks in prediction, which is :attr:`samples_per_pass` by default."""
        self._asked[True] = asked
        self._forget_choice()

    @property
    def strategy(self) -> str:
        """Strategy of chunks: ``"loop"``, ``"vmap"`` or ``"batched"``; ``"auto"`` for any of them.

        If a named strategy is not possible, a call raises an error that names the layer.
        """
        return self._strategy

    @strategy.setter
    def strategy(self, name: str) -> None:
        check_strategy(name)
        self._strategy = name
        self._forget_choice()

    def _forget_choice(self) -> None:
        """Discard the choice of chunk and strategy."""
        self._settled.clear()
        self._passes = {where: self._first(asked) for where, asked in self._asked.items()}

    def _first(self, asked: int | Literal["auto"]) -> Passes:
        """Chunk and strategy before :meth:`choose`."""
        return Passes(self.usual.chunk if asked == AUTO else asked, self._strategy)

    @property
    def passes(self) -> Passes:
        """Current chunk and strategy, in training or in prediction."""
        return self._passes[self.in_prediction]

    @passes.setter
    def passes(self, passes: Passes) -> None:
        self._passes[self.in_prediction] = passes

    @property
    def way(self) -> str:
        """Strategy of the next pass: the current one, or ``"compiled"``."""
        compiled = self.compiled and not self.in_prediction
        return COMPILED if compiled else self.passes.strategy

    @property
    def settled(self) -> bool:
        """Whether chunk and strategy have been chosen, in training or in prediction."""
        return self._asked[self.in_prediction] != AUTO or self.in_prediction in self._settled

    def choice(self) -> dict[str, list[Any]]:
        """The choice, for a checkpoint: chunk and strategy of training and of prediction."""
        return {
            NAMES[where]: [self._passes[where].chunk, self._passes[where].strategy]
            for where in self._settled
        }

    def take_choice(self, chosen: Mapping[str, Sequence[Any]]) -> None:
        """Use the choice of a checkpoint, except for a chunk or strategy requested by name.

        Until prediction is measured, it uses the choice of training, which is the best guess.
        """
        if self._strategy == AUTO:
            if NAMES[False] in chosen and self._asked[True] == AUTO:
                self._passes[True] = Passes(*chosen[NAMES[False]])
            for where, name in NAMES.items():
                if name in chosen and self._asked[where] == AUTO:
                    self._passes[where] = Passes(*chosen[name])
                    self._settled.add(where)

    def check_passes(
        self, x: Tensor, samples: range, *, stacked: bool = False, index: Tensor | None = None
    ) -> None:
        """Check in a trial pass that a strategy requested by name is possible.

        Raises
        ------
        UsageError
            If the strategy is not possible; the message names the layer.
        """
        if self._strategy in (AUTO, "loop") or len(samples) < 2:
            return
        x = inputs_of(x, stacked)
        own = samples[: max(2, self._first(self._asked[self.in_prediction]).chunk)]
        before = self.passes
        self.passes = Passes(len(own), self._strategy)
        try:
            with self.trying():
                self(x[: len(own)] if stacked else x, own, 0, stacked=stacked, index=index)
        finally:
            self.passes = before

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Context in which samples are evaluated in a loop."""
        before, self._passes = self._passes, dict.fromkeys((False, True), Passes(1, "loop"))
        try:
            yield
        finally:
            self._passes = before

    def chunks(self, samples: range, stacked: bool = False) -> Iterator[range]:
        """Split ``samples`` into pieces of :attr:`samples_per_pass`.

        A method may split differently, e.g. depending on whether each sample has its own inputs.
        """
        size = self.samples_per_pass
        for i in range(0, len(samples), size):
            yield samples[i : i + size]

    def choose(
        self,
        x: Tensor,
        samples: range,
        most: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
        largest: Callable[[float], float] = float,
    ) -> float:
        """Measure forward passes, with gradients also backward ones, and keep the fastest choice.

        Collective over the ranks that ``largest`` communicates with. Only the order of float sums
        depends on the choice. A chunk or a strategy that was requested by name is kept.

        Parameters
        ----------
        x, samples, stacked, index
            A batch, as in :meth:`Method.forward`, for all samples of this rank.
        most
            Largest number of samples of any rank (default: that of this rank).
        largest
            Returns the largest value of a number over the ranks.

        Returns
        -------
        float
            Seconds that the slowest rank needs for its samples.

        Raises
        ------
        UsageError
            If the module does not support the requested strategy.
        """
        x, most = inputs_of(x, stacked), len(samples) if most is None else most
        clock = choice.clock_for(x.device)

        def run_of(passes: Passes) -> choice.Run | None:
            own = samples[: passes.chunk]
            views = x[: len(own)] if stacked else x

            def run() -> None:
                self.passes = passes
                if not torch.is_grad_enabled():
                    with self.trying():
                        self(views, own, 0, stacked=stacked, index=index)
                    return
                with self.trying(), self.accumulating() as accumulator:
                    y = self(views, own, 0, stacked=stacked, index=index)
                    accumulator.backward(y.float().sum())

            with refusals() as reasons:
                try:
                    run()
                except (UsageError, torch.OutOfMemoryError):
                    if passes.chunk == 1:
                        raise
                    return None
            return None if reasons else run

        if not self.settled:
            strategies = ("batched", "vmap") if self._strategy == AUTO else (self._strategy,)
            self.passes, seconds = choice.choose(
                run_of,
                most,
                self._activations(x, samples, stacked, index),
                choice.room_on(x.device),
                strategies=strategies,
                largest=largest,
                clock=clock,
            )
            self._settled.add(self.in_prediction)
            return seconds
        passes = self.passes
        run = run_of(passes) or run_of(Passes(1, "loop"))
        assert run is not None, "a loop is never refused"
        count = -(-most // self.passes.chunk)
        seconds = largest(choice.timed(run, clock)) * count
        self.passes = passes
        return seconds

    def _activations(self, x: Tensor, samples: range, stacked: bool, index: Tensor | None) -> float:
        """Number of bytes that a pass of one sample keeps for its backward pass."""
        there = (*self.parameters(), *self.buffers(), *tensors(x))
        held = {t.untyped_storage().data_ptr() for t in there}
        views = x[:1] if stacked else x

        def forward() -> Any:
            self.passes = Passes(1, "loop")
            with torch.enable_grad(), self.trying():
                return self(views, samples[:1], 0, stacked=stacked, index=index)

        return float(choice.kept_bytes(forward, frozenset(held)))
