"""BatchEnsemble: members share all weights except rank-1 factors and biases.

    y_s = ((x * r_s) W^T) * s_s + b_s        in each linear layer and convolution

(Wen, Tran and Ba 2020.) ``W`` and all other parameters are shared; a member has its own factors
``r_s`` and ``s_s``, and its own bias of these layers. The samples of a chunk are rows of one
product, so a batch of B items costs little more than S B items in one network. The parameters are
n shared values and S m values, for the m factors and biases of each member.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.decay import squares
from hpcsamp.methods.factors import add_factors, is_factor
from hpcsamp.methods.passing import ALL
from hpcsamp.methods.showing import Showing
from hpcsamp.streams import Purpose
from hpcsamp.weights import Passes, PlainVariables
from hpcsamp.weights.layout import Layout
from hpcsamp.weights.variables import deterministic_of


class BatchEnsemble(Showing):
    """S members that share the weights of one network and differ by factors of rank 1.

    Parameters
    ----------
    module
        A plain ``nn.Module``. Its linear layers and convolutions get factors in place
        (:func:`~hpcsamp.methods.factors.add_factors`); afterwards its parameters are views of the
        shared weights and of the first member.
    samples
        ``S``, the number of members.
    initial_std
        Standard deviation of the initial factors around 1. None: random signs, as published.
    prior_std
        Standard deviation of a normal prior of the shared parameters (weight decay
        ``1 / (N prior_std^2)`` in nats per item); None for no prior.
    autocast
        As in :class:`~hpcsamp.methods.mean_field.MeanField`.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.

    Attributes
    ----------
    weights
        ``(n,)`` parameters that the members share; None if the module has no others.
    members
        ``(S, m)`` factors and biases of the members. All ranks hold them, and a member's gradient
        is computed by the rank that evaluates it.

    Raises
    ------
    UsageError
        If a value is out of range, or no layer can have factors.
    """

    usual = Passes(ALL)
    trains_with_noise = False

    def __init__(
        self,
        module: nn.Module,
        samples: int,
        *,
        initial_std: float | None = None,
        prior_std: float | None = None,
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        if samples < 1:
            raise UsageError(f"method.samples = {samples} must be at least 1")
        for what, value in {"initial_std": initial_std, "prior_std": prior_std}.items():
            if value is not None and not value > 0:
                raise UsageError(f"method.{what} = {value} must be greater than 0")
        layers, marked = add_factors(module, "batch_ensemble"), deterministic_of(module)
        biases = {f"{name}.bias" if name else "bias" for name in layers} - marked
        variables = PlainVariables(module)
        super().__init__([variables], seed, samples_per_pass, autocast)
        self.samples, self.prior_std, self._marked = samples, prior_std, marked
        own = {v.name for v in variables.trained.variables if is_factor(v.name)} | biases
        self._shared = Layout(v for v in variables.trained.variables if v.name not in own)
        self._own = Layout(v for v in variables.trained.variables if v.name in own)
        means = variables.means()
        self.weights: nn.Parameter | None = None
        if self._shared.variables:
            self.weights = nn.Parameter(self._shared.flatten(means))
        rows = self._own.flatten(means).repeat(samples, 1)
        noise = self._own.draw(torch.empty_like(rows), seed, Purpose.MEMBERS, 0, range(samples))
        for name, values in self._own.named(rows).items():
            if is_factor(name):
                drawn = self._own.named(noise)[name]
                signs = torch.where(drawn < 0, -1.0, 1.0).to(drawn.dtype)
                values.copy_(signs if initial_std is None else 1 + initial_std * drawn)
        self.members = nn.Parameter(rows)
        self._link()

    @classmethod
    def create(cls, network: Any, samples: int, own: range, **arguments: Any) -> Self:
        """See :meth:`Method.create`."""
        return cls(network(None), samples, **arguments)

    @property
    def module(self) -> nn.Module:
        """The wrapped module."""
        return self.variables.module

    def forward(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> Tensor:
        """Evaluate some members, see :meth:`Method.forward`.

        Raises
        ------
        UsageError
            If a sample is requested that no member has.
        """
        if samples.stop > self.samples:
            raise UsageError(
                f"sample {samples.stop - 1} was requested, but BatchEnsemble has "
                f"{self.samples} members; create it with more samples"
            )
        shared = {} if self.weights is None else self._shared.named(self.weights)
        outputs = []
        for chunk in self.chunks(samples, stacked):
            views = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            own = self._own.named(self.members[chunk.start : chunk.stop])
            place = self.place_of(chunk, step, index)
            y = self._run(self.variables, own, shared, views, len(chunk), stacked, place)
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return ``sum w^2 / (2 prior_std^2)`` over shared parameters in nats; or a share of it."""
        if self.prior_std is None or self.weights is None:
            return self.members.new_zeros(())
        total = squares(self.weights, self._shared, self._marked, part, parts)
        return total / (2 * self.prior_std**2)

    def prediction_samples(self, asked: int | None) -> int:
        """Return the number of members.

        Raises
        ------
        UsageError
            If another number is requested.
        """
        if asked not in (None, self.samples):
            raise UsageError(
                f"evaluation.samples = {asked}, but the predictive distribution of "
                f"{type(self).__name__} has its {self.samples} members: set it to {self.samples}, "
                f"or leave it out"
            )
        return self.samples

    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over shared parameters, then over ``(S, *shape)`` values of the members."""
        if self.weights is not None:
            yield from self._shared.named(self.weights.detach()).items()
        yield from self._own.named(self.members.detach()).items()

    def _link(self) -> None:
        shown = self._own.named(self.members.data[0])
        if self.weights is not None:
            shown |= self._shared.named(self.weights.data)
        self.variables.show(shown, {})
