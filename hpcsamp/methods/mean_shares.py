"""Means and standard deviations that are sharded over the ranks of a sample group."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.learned_prior import Spans, fitted
from hpcsamp.methods.normal import Span
from hpcsamp.methods.sharing import SampleGroupLike, Sharing
from hpcsamp.methods.showing import Showing
from hpcsamp.weights import PlainVariables

#: Methods that work on shares; a subclass that overrides one would need whole weights.
VERBS = ("forward", "draw", "noise", "penalty", "accumulating")


class MeanShares(Showing):
    """A method with flat means and log standard deviations, whole or sharded.

    Attributes
    ----------
    mean, log_std, fixed
        See :class:`~hpcsamp.methods.mean_field.MeanField`; if sharded, this rank's shares.
    """

    mean: nn.Parameter
    log_std: nn.Parameter
    fixed: nn.Parameter | None
    _spans: Spans
    _sharing: Sharing | None = None

    @abstractmethod
    def noise(self, step: int, samples: range, out: Tensor | None = None, first: int = 0) -> Tensor:
        """Return noise of some samples, or of a section of their weights."""

    @abstractmethod
    def _named(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Split flat variational parameters by name."""

    @contextmanager
    def trying(self, *, made_up: bool = True) -> Iterator[None]:
        """See :meth:`Method.trying`."""
        try:
            with super().trying(made_up=made_up):
                yield
        finally:
            if self._sharing is not None and not self._in_trial:
                self._sharing.made_up.forget()

    @property
    def shared_out(self) -> bool:
        """See :attr:`Method.shared_out`."""
        return self._sharing is not None

    def check_shares(self) -> None:
        """See :meth:`Method.check_shares`."""
        own = {verb for kind in type(self).__mro__ for verb in vars(kind) if verb in VERBS}
        base = next(k for k in type(self).__mro__ if MeanShares in k.__bases__)
        if any(getattr(type(self), verb) is not getattr(base, verb) for verb in own):
            super().check_shares()
        wanted, v = 'optimizer.sharded = "weights"', self.variables
        pairs = [of.name for of in v.trained.variables if of.pairs]
        if pairs or not isinstance(v, PlainVariables):
            raise UsageError(
                f"{wanted} needs a plain network with real parameters; "
                + (
                    f"{pairs[0]} is complex"
                    if pairs
                    else "this network contains modules of torch_blue"
                )
                + ", so set optimizer.sharded = true"
            )

    def share_out(self, group: SampleGroupLike) -> None:
        """See :meth:`Method.share_out`."""
        super().share_out(group)
        if group.size == 1 or self._sharing is not None:
            return
        held = dict(self.named_parameters())
        for p in held.values():
            group.copy_first_(p.detach())
        v, fixed = self.variables, self.fixed
        sharing = Sharing(
            group, v.random, v.deterministic, (self.mean, fixed),
            lambda out, step, samples, first: self.noise(step, samples, out, first), list(held),
        )  # fmt: skip
        for name, p in held.items():
            vector = sharing.fixed_vector if p is fixed else sharing.vector
            setattr(self, name, nn.Parameter(vector.cut(p.detach()), p.requires_grad))
        self._sharing, self.placement = sharing, sharing.placement
        self._link()

    def own_state(self) -> dict[str, Tensor]:
        """See :meth:`Method.own_state`."""
        if self._sharing is None:
            return super().own_state()
        return {name: p.detach() for name, p in self.named_parameters()}

    def by_name(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Method.by_name`."""
        return dict(whole) if self._sharing is None else self._named(whole)

    @property
    def numbers(self) -> int:
        """See :attr:`Method.numbers`."""
        if self._sharing is None:
            return super().numbers
        return 2 * self.variables.random.size + self.variables.deterministic.size

    @property
    def drawn_numbers(self) -> int:
        """See :attr:`Method.drawn_numbers`."""
        return self.variables.random.size

    @property
    def _start(self) -> int:
        """Index of this rank's first weight in the flat vector."""
        return 0 if self._sharing is None else self._sharing.vector.own.start

    def _normal_spans(self) -> list[Span]:
        """Normal priors of the weights, the learnt ones at their optimum for this posterior.

        Collective over the ranks that together hold one network, if there are learnt ones.
        """
        values = (self.mean.detach(), self.log_std.detach())
        return fitted(self._spans, *values, self._start, self._sum_holders)

    def _sum_holders(self, x: Tensor) -> None:
        """Sum over the ranks that together hold one network, in place."""
        if self._state.group is not None:
            self._state.group.sum_holders_(x, self.shared_out)

    def _show_nothing(self) -> None:
        """Replace the module's parameters by NaN, expanded so that it takes no memory."""
        nothing = self.mean.new_full((), math.nan).detach()
        shapes = {v.name: v.shape for v in self.variables.trained.variables}
        self.variables.show({name: nothing.expand(shape) for name, shape in shapes.items()}, {})

    def _check_whole(self) -> None:
        if self._sharing is not None:
            raise UsageError(
                'this rank holds only a share of the weights (optimizer.sharded = "weights"), so '
                "that Monte Carlo KL, densities of draws and single layers are not available in "
                "training; set optimizer.sharded = true, or load the run"
            )
