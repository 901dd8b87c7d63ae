"""Base class of all sampling methods."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid.columns import SampleGroup
from hpcsamp.grid.placement import REPLICATED, Replicated
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.observe import Observer
from hpcsamp.methods.shareable import Shareable
from hpcsamp.methods.spread import Spread
from hpcsamp.weights import Caller, Pieces, Place, inputs_of, refusals
from hpcsamp.weights.calling import Outputs


class Method(Shareable):
    """Turns a module into S functions, one per weight sample.

        outputs = method(x, samples=range(4, 8), step=t)      # (4, B, ...)
        penalty = method.penalty()                            # KL or prior term, scalar

    A method draws all random numbers from (seed, step, sample), so results do not depend on which
    rank evaluates which sample (design law 1).

    Parameters
    ----------
    seed
        Seed of the run.
    samples_per_pass
        Number of samples that are evaluated at once, or ``"auto"``: 1 until :meth:`choose` has
        measured which number is fastest, as a training run does. More samples need more memory, but
        small networks and GPUs run faster with them. Draws and results are the same.

    Attributes
    ----------
    placement
        Which weights a rank holds: all of them, or the rows of its own samples.
    spread
        The parts of an item that each model rank holds; None if each rank holds whole items.
    """

    placement: Replicated = REPLICATED
    spread: Spread | None = None
    #: Whether its network may be split over model ranks. Not inherited: each class declares it
    #: itself, because a subclass may hold or draw more.
    in_parts: ClassVar[bool] = False
    #: Whether the first argument may also be a function that returns the network of a member.
    makes_networks: ClassVar[bool] = False
    #: Whether a step may be captured in a CUDA graph: its number may be a scalar int64 tensor on
    #: the device, from which all draws follow, and no pass makes the host wait. Not inherited, like
    #: ``in_parts``.
    captures: ClassVar[bool] = False
    #: Whether its accumulator sums all gradients, in the order of the parameters, in one tensor.
    sums_in_one: bool = False
    #: Whether training draws weight noise, which a resumed run must draw in the same form.
    trains_with_noise: bool = True
    #: Whether :meth:`direct` changes gradients before a step.
    directs: ClassVar[bool] = False
    #: Version of its draws other than those of weights, increased when they change, so that no run
    #: is resumed with different draws.
    draws: ClassVar[int] = 1

    @classmethod
    def create(
        cls, network: Callable[[int | None], nn.Module], samples: int, own: range, **arguments: Any
    ) -> Self:
        """Create the method of a run.

        Parameters
        ----------
        network
            A function that returns a network with fresh initial weights: ``network(None)`` those of
            the run, ``network(s)`` those of member ``s``.
        samples, own
            S, and the samples that this rank evaluates in training.
        arguments
            Arguments of the class.
        """
        kind: Any = cls  # a subclass, whose first argument is the module
        made: Self = kind(network(None), **arguments)
        made.usual_prediction_samples = max(made.usual_prediction_samples, samples)
        return made

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Refuse an argument that is not a network, such as a class, before anything is built."""
        first = list(inspect.signature(cls.__init__).parameters)[1]
        if (arguments or named) and first in ("module", "network"):  # copying passes no arguments
            network = arguments[0] if arguments else named.get(first)
            if not isinstance(network, nn.Module) and not (
                cls.makes_networks and callable(network)
            ):
                kind = f"the class {network.__name__}" if isinstance(network, type) else network
                raise UsageError(
                    f"{cls.__name__} takes a network, an instance of torch.nn.Module, not "
                    f"{kind!s:.80}"
                )
        return super().__new__(cls)

    def __init__(self, seed: int, samples_per_pass: int | Literal["auto"] = "auto") -> None:
        super().__init__(samples_per_pass)
        self.seed = seed
        self._in_trial = self._made_up = False
        #: Within :meth:`trying`, which evaluates the same samples many times: the last noise.
        self._tried: tuple[Any, Any] | None = None
        self._observer = Observer()

    def network_of(self, sample: int) -> nn.Module | None:
        """Return the wrapped module that evaluates a sample; None if this rank does not have it."""
        return self.networks[0] if self.networks else None

    def drawing(
        self, network: nn.Module, x: Any, sample: int
    ) -> tuple[Place, Callable[[], AbstractContextManager[Any]]]:
        """Return a place and a context with which a network draws as in a prediction sample.

        Parameters
        ----------
        network
            A network other than that of the method.
        x
            Some items.
        sample
            Index of the prediction sample.

        Returns
        -------
        place
            Identifies the draws.
        within
            Opens a context in which the network draws, while calls are routed.
        """
        with self.predicting():
            return self.place_of(range(sample, sample + 1), 0, None), nullcontext

    def leaves_observed(self) -> Sequence[Tensor]:
        """Return leaves that stand for trained parameters in the passes of :meth:`observe`."""
        return ()

    def observe(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> None:
        """Check in a few passes that the module's outputs depend on weights and items only.

        Called automatically before the first evaluation, and again when submodules have changed
        between training and evaluation mode. It does not affect the results of the run.

        Parameters
        ----------
        x, samples, step, stacked, index
            As in :meth:`forward`.

        Raises
        ------
        UsageError
            If, in training or in prediction, the module draws random numbers itself, keeps state,
            or lets the items of a batch influence each other. The message names the submodule and a
            remedy.
        """
        self._observer.look(self, x, samples, step, stacked, index)

    def __call__(self, x: Tensor, samples: range, *others: Any, **named: Any) -> Tensor:
        """Evaluate some samples, see :meth:`forward`; the first call also checks the module.

        Raises
        ------
        UsageError
            If ``x`` is neither a tensor nor a dictionary of tensors with the same items, or
            ``samples`` is not a range of samples.
        """
        x = inputs_of(x, bool(named.get("stacked", False)))
        if not isinstance(samples, range) or samples.step != 1 or samples.start < 0:
            example = f"range({samples})" if isinstance(samples, int) else "range(4)"
            raise UsageError(f"samples = {samples!r:.80} must be a range, e.g. {example}")
        self.observe(x, samples, *others, **named)
        if self.strategy == "auto" and not self.compiled:
            found: Tensor = super().__call__(x, samples, *others, **named)
            return found
        with refusals() as reasons:
            found = super().__call__(x, samples, *others, **named)
        if reasons:
            asked = "training.compile" if self.compiled else f"method.strategy = {self.strategy!r}"
            raise UsageError(f"{asked} is not possible: {reasons[0]}")
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
        """Evaluate some samples.

        Parameters
        ----------
        x
            Inputs ``(B, ...)``, or ``(len(samples), B, ...)`` if ``stacked``: each sample then has
            its own inputs (augmentation per sample). A dictionary of several inputs is passed to
            the module by name, or by position if the module does not take these names.
        samples
            The samples to evaluate, within 0..S-1.
        step
            Training step, which selects the random stream.
        stacked
            Whether ``x`` has a sample axis.
        index
            ``(B,)`` int64, positions of the items in their split, for methods that draw numbers
            for each item (None: ``0 .. B-1``). Draws must not depend on the batch of an item.

        Returns
        -------
        Tensor
            ``(len(samples), B, ...)``; several outputs are packed into ``(len(samples), B, n)``,
            which :meth:`split` unpacks.
        """

    @property
    def callers(self) -> Sequence[Caller]:
        """Callers of the wrapped modules, which unify their inputs and outputs."""
        return ()

    @property
    def outputs(self) -> Outputs | None:
        """Layout of the outputs of the last evaluation, if the module returns several."""
        last = max(self.callers, key=lambda caller: caller.time, default=None)
        return None if last is None else last.outputs

    def split(self, outputs: Tensor) -> dict[str, Tensor]:
        """Unpack several outputs of an evaluation by name, ``(k, B, ...)`` each.

        Raises
        ------
        UsageError
            If the module returns one tensor.
        """
        if self.outputs is None:
            raise UsageError("the network has one output, so there is nothing to split")
        return self.outputs.split(outputs)

    @abstractmethod
    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return the KL or prior term in nats, not divided by N; or one of ``parts`` shares of it.

        The shares add up to the whole term, in value and gradient (design law 2).
        """

    def add_penalty(
        self, gradients: list[Tensor | None], factor: float, part: int = 0, parts: int = 1
    ) -> Tensor | None:
        """Add ``factor`` times the gradients of :meth:`penalty` to some sums, in place.

        This needs no memory for the gradients of the penalty.

        Parameters
        ----------
        gradients
            Sums for the trained parameters in their order; None is 0, and may be replaced.
        part, parts
            As in :meth:`penalty`.

        Returns
        -------
        Tensor or None
            The penalty, a scalar without gradient; None, without any change, if this is left to
            autograd.
        """
        return None

    def penalties(self) -> dict[str, tuple[int, float]]:
        """Return the number of weights and the whole penalty in nats of each random variable."""
        return {}

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """Return ``log q(w_s) - log p(w_s)`` of draws, for Monte Carlo KL and importance weights.

        The mean over samples estimates the KL divergence; the gradient includes that of the draw.

        Parameters
        ----------
        samples, step
            As in :meth:`forward`: the densities are those of the weights that are evaluated there.

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
            f"the draws of {type(self).__name__} have no density, so neither Monte Carlo KL "
            f"nor importance weights can be computed"
        )

    @abstractmethod
    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over all trained tensors, in the shape and under the name of their layer."""

    def pieces(self) -> Mapping[str, Pieces]:
        """Positions of the method's state in that of the whole network, if the network is split.

        Raises
        ------
        UsageError
            If the method cannot split a network over model ranks.
        """
        raise UsageError(
            f"{type(self).__name__} cannot split a network over model ranks; set parallel.model "
            "= 1, or method.name to mean_field, ivon, ensemble or mc_dropout"
        )

    def check_parts(self) -> None:
        """Refuse to split a network over model ranks, unless the class declares that it can.

        Raises
        ------
        UsageError
            If the class does not declare it, see :meth:`pieces`.
        """
        if not vars(type(self)).get("in_parts", False):
            Method.pieces(self)

    def named_pieces(self) -> Mapping[str, Pieces]:
        """Positions as in :meth:`pieces`, for the tensors of :meth:`named_variational`."""
        return {}

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Context whose accumulator sums the gradients of one chunk after the other.

        A method overrides this if it can compute the gradient of its parameters from that of a
        sample's weights more cheaply than autograd.
        """
        yield Accumulator(self.parameters())

    def place_of(self, samples: range, step: int | None, index: Tensor | None) -> Place:
        """Return the place of a pass, which identifies the module's own random numbers in it.

        Parameters
        ----------
        samples, step, index
            As in :meth:`forward`.
        """
        step = self.step if step is None else step
        predicts = self.in_prediction
        return Place(self.seed, 0 if predicts else step, samples, index, predicts, self._in_trial)

    @contextmanager
    def trying(self, *, made_up: bool = True) -> Iterator[None]:
        """Context in which passes only probe the module, see :attr:`.Place.trial`.

        ``made_up``: whether a rank that holds only a share of the weights may use made-up weights.
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
        """Called once before the first step with ``N`` and the length of the run."""

    def after_step(self) -> None:
        """Called after each step of the optimiser, when :attr:`step` has been advanced."""

    def direct(self, group: SampleGroup, scale: float = 1.0) -> None:
        """Replace the gradients of all ranks by directions, if the class sets :attr:`directs`.

        Called once before each step. Collective over the world.

        Parameters
        ----------
        group
            The collectives.
        scale
            Factor that the gradients contain, of a ``GradScaler``.
        """

    def unfit(self, optimizer: torch.optim.Optimizer) -> UsageError | None:
        """Return an error if this method cannot be trained by an optimiser."""
        return None

    @property
    def optimizers(self) -> Mapping[str, Callable[..., torch.optim.Optimizer]]:
        """Optimisers of this method by name; if there are any, one of them must be used."""
        return {}

    def check_loss(self, name: str, linear: bool) -> None:
        """Called before training with the loss's name, and whether it is linear in the samples.

        Raises
        ------
        UsageError
            If the method cannot be trained with this loss.
        """

    @property
    def gradient_scale(self) -> float:
        """Factor of the loss's gradient before it is passed to the optimiser."""
        return 1.0
