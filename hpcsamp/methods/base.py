"""The verbs that every sampling method has."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid.placement import REPLICATED, Replicated
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.observe import Observer
from hpcsamp.methods.shareable import Shareable
from hpcsamp.methods.spread import Spread
from hpcsamp.weights import Caller, Pieces, Place, inputs_of, refusals
from hpcsamp.weights.calling import Outputs


class Method(Shareable):
    """A module as S functions, one per weight sample.

        outputs = method(x, samples=range(4, 8), step=t)      # (4, B, ...)
        penalty = method.penalty()                            # KL or prior term, scalar

    A method draws everything from (seed, step, sample), so which rank evaluates which sample makes
    no difference (law 1).

    Parameters
    ----------
    seed
        Seed of the run.
    samples_per_pass
        Samples that are evaluated at once, or ``"auto"``: 1 until :meth:`choose` has measured what
        is fastest, as a training run does. More need more memory; small networks and GPUs are
        faster with them. Draws and results are the same.

    Attributes
    ----------
    placement
        Where its weights live: all of them on every rank, or rows of its own samples.
    spread
        Which parts of an item the model ranks have; None where each rank sees whole items.
    """

    placement: Replicated = REPLICATED
    spread: Spread | None = None
    #: Whether model ranks may hold its network in parts; each class says so itself, as one that
    #: inherits may hold or draw more.
    in_parts: ClassVar[bool] = False
    #: Whether the first argument may also be a function that makes the network of a member.
    makes_networks: ClassVar[bool] = False
    #: Whether its training draws noise of weights, so that a run goes on with the same form of it.
    trains_with_noise: bool = True
    #: Which draws it has beside those of weights: one more when they become others, so that no run
    #: goes on with other ones.
    draws: ClassVar[int] = 1

    @classmethod
    def create(
        cls, network: Callable[[int | None], nn.Module], samples: int, own: range, **arguments: Any
    ) -> Self:
        """Make the method of a run.

        Parameters
        ----------
        network
            A network with fresh initial weights: ``network(None)`` those of the run,
            ``network(s)`` those of a member.
        samples, own
            S, and which of them this rank evaluates in training.
        arguments
            Those of the class.
        """
        kind: Any = cls  # a subclass, whose first argument is the module
        made: Self = kind(network(None), **arguments)
        made.usual_prediction_samples = max(made.usual_prediction_samples, samples)
        return made

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Refuse what is no network, such as the class of one, before anything is made of it."""
        first = list(inspect.signature(cls.__init__).parameters)[1]
        if (arguments or named) and first in ("module", "network"):  # copies are made without any
            network = arguments[0] if arguments else named.get(first)
            if not isinstance(network, nn.Module) and not (
                cls.makes_networks and callable(network)
            ):
                kind = f"the class {network.__name__}" if isinstance(network, type) else network
                raise UsageError(
                    f"{cls.__name__} takes a network, which is an instance of torch.nn.Module, not "
                    f"{kind!s:.80}"
                )
        return super().__new__(cls)

    def __init__(self, seed: int, samples_per_pass: int | Literal["auto"] = "auto") -> None:
        super().__init__(samples_per_pass)
        self.seed = seed
        self._in_trial = self._made_up = False
        #: Within :meth:`trying`, which looks at the same samples many times: noise by its name.
        self._tried: tuple[Any, Tensor] | None = None
        self._observer = Observer()

    def network_of(self, sample: int) -> nn.Module | None:
        """The wrapped module that evaluates a sample; None if there is none."""
        return self.networks[0] if self.networks else None

    def drawing(
        self, network: nn.Module, x: Any, sample: int
    ) -> tuple[Place, Callable[[], AbstractContextManager[Any]]]:
        """How a network with the weights of a prediction sample draws what else is in that sample.

        Parameters
        ----------
        network
            Another one than that of the method.
        x
            Some items.
        sample
            Which one.

        Returns
        -------
        place
            The name of its draws.
        within
            Makes a block in which it draws, as long as calls are routed.
        """
        with self.predicting():
            return self.place_of(range(sample, sample + 1), 0, None), nullcontext

    def observe(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> None:
        """Check that the module is a function of weights and items alone, by passes with a few.

        Called by itself before the first evaluation, and again when submodules have changed between
        training and evaluation mode. No number of the run changes by it.

        Parameters
        ----------
        x, samples, step, stacked, index
            As in :meth:`forward`.

        Raises
        ------
        UsageError
            For a module that draws by itself, keeps state, or lets the items of a batch influence
            each other, in training or in prediction; naming the submodule and what to do instead.
        """
        self._observer.look(self, x, samples, step, stacked, index)

    def __call__(self, x: Tensor, samples: range, *others: Any, **named: Any) -> Tensor:
        """Outputs of some samples, see :meth:`forward`; the module is observed at first.

        Raises
        ------
        UsageError
            If ``x`` is neither a tensor nor a dictionary of tensors with the same items, or
            ``samples`` no range of samples.
        """
        x = inputs_of(x, bool(named.get("stacked", False)))
        if not isinstance(samples, range) or samples.step != 1 or samples.start < 0:
            example = f"range({samples})" if isinstance(samples, int) else "range(4)"
            raise UsageError(f"samples = {samples!r:.80}: a range is needed, e.g. {example}")
        self.observe(x, samples, *others, **named)
        if self.strategy == "auto":
            found: Tensor = super().__call__(x, samples, *others, **named)
            return found
        with refusals() as reasons:
            found = super().__call__(x, samples, *others, **named)
        if reasons:
            raise UsageError(f"method.strategy = {self.strategy!r} is not possible: {reasons[0]}")
        return found

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> Tensor:
        """Outputs of some samples.

        Parameters
        ----------
        x
            Inputs ``(B, ...)``, or ``(len(samples), B, ...)`` if ``stacked``: each sample then sees
            inputs of its own (augmentation per sample). A dictionary of several by name is given to
            the module by these names, or by position where it does not take them.
        samples
            Which of the samples 0..S-1.
        step
            Training step, part of the name of the random stream.
        stacked
            Whether ``x`` has a sample axis.
        index
            ``(B,)`` int64, positions of the items in their split, for methods that draw something
            for each item (None: ``0 .. B-1``). Draws must not depend on the batch an item came in.

        Returns
        -------
        Tensor
            ``(len(samples), B, ...)``; of several outputs ``(len(samples), B, n)``, which
            :meth:`split` takes apart.
        """

    @property
    def callers(self) -> Sequence[Caller]:
        """What calls the wrapped modules."""
        return ()

    @property
    def outputs(self) -> Outputs | None:
        """Where the outputs of the last evaluation lie, if the module returns several."""
        last = max(self.callers, key=lambda caller: caller.time, default=None)
        return None if last is None else last.outputs

    def split(self, outputs: Tensor) -> dict[str, Tensor]:
        """Several outputs by name, ``(k, B, ...)`` each, from those of an evaluation.

        Raises
        ------
        UsageError
            If the module returns one tensor.
        """
        if self.outputs is None:
            raise UsageError("the network has one output; there is nothing to split")
        return self.outputs.split(outputs)

    @abstractmethod
    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """The term beside the data, in nats, not divided by N; or one of several shares of it.

        The shares of ``parts`` ranks add up to the whole, values and gradients (law 2).
        """

    def penalties(self) -> dict[str, tuple[int, float]]:
        """The whole penalty by random variable: how many weights it has, and its nats."""
        return {}

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """``log q(w_s) - log p(w_s)`` of draws: what Monte Carlo KL and importance weights need.

        The mean over samples estimates the KL divergence; the gradient includes that of the draw.

        Parameters
        ----------
        samples, step
            As in :meth:`forward`: the densities are those of the weights it evaluates.

        Returns
        -------
        Tensor
            ``(len(samples),)`` float64, in nats.

        Raises
        ------
        UsageError
            If the method's draws have no density.
        """
        raise UsageError(
            f"the draws of {type(self).__name__} have no density: neither Monte Carlo KL nor "
            f"importance weights can be had of them"
        )

    @abstractmethod
    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """Every trained tensor in the shape and under the name of its layer."""

    def pieces(self) -> Mapping[str, Pieces]:
        """Of a network in parts: where the tensors of the method's state lie in those of the whole.

        Raises
        ------
        UsageError
            If the method cannot hold a network in parts.
        """
        raise UsageError(
            f"a {type(self).__name__} cannot hold a network in parts; set parallel.model = 1, or "
            f"take mean_field, ensemble or mc_dropout"
        )

    def check_parts(self) -> None:
        """Refuse to hold a network in parts, unless the class is known to do it exactly.

        Raises
        ------
        UsageError
            See :meth:`pieces`.
        """
        if not vars(type(self)).get("in_parts", False):
            Method.pieces(self)

    def named_pieces(self) -> Mapping[str, Pieces]:
        """The same of :meth:`named_variational`."""
        return {}

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Within the block, gradients of one chunk after the other are summed by what is returned.

        A method may know a cheaper way than autograd's to get from a sample's weights to its
        parameters; it then overrides this.
        """
        yield Accumulator(self.parameters())

    def place_of(self, samples: range, step: int | None, index: Tensor | None) -> Place:
        """The name of a pass: that of what the module draws by itself in it.

        Parameters
        ----------
        samples, step, index
            Of the pass, as in :meth:`forward`.
        """
        step = self.step if step is None else step
        predicts = self.in_prediction
        return Place(self.seed, 0 if predicts else step, samples, index, predicts, self._in_trial)

    @contextmanager
    def trying(self, *, made_up: bool = True) -> Iterator[None]:
        """Within the block passes only find something out, see :attr:`.Place.trial`.

        ``made_up``: whether any plausible weights will do, where a rank has not got them all.
        """
        before = self._in_trial, self._made_up
        self._in_trial, self._made_up = True, made_up
        try:
            yield
        finally:
            self._in_trial, self._made_up = before
            if not before[0]:
                self._tried = None

    # Around training ---------------------------------------------------------------------------

    def begin(self, items: int, steps: int, steps_per_epoch: int) -> None:
        """Said once before the first step: ``N``, and how long the run is."""

    def after_step(self) -> None:
        """Said after each step of the optimiser, when :attr:`step` has been advanced."""

    @property
    def optimizers(self) -> Mapping[str, Callable[..., torch.optim.Optimizer]]:
        """Optimisers of the method's own by name; where there are any, one of them must be used."""
        return {}

    def check_loss(self, name: str, linear: bool) -> None:
        """Said before training: the loss by name, and whether it is linear in the samples.

        Raises
        ------
        UsageError
            If the method cannot be trained by it.
        """

    @property
    def gradient_scale(self) -> float:
        """Factor from the loss's gradient to what the optimiser is to see."""
        return 1.0
