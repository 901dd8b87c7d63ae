"""Base of ensembles and chains: every sample has its own weights, held by one rank.

No gradient crosses the sample axis, so the ranks of a sample group exchange nothing of the size of
the weights: a rank averages its members' gradients over the data group and updates them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.grid.placement import RowList, SampleRows
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.copies import apart
from hpcsamp.methods.showing import Showing
from hpcsamp.methods.traces import Traces
from hpcsamp.weights import Pieces, Place, PlainVariables, Put, Variables
from hpcsamp.weights.extra import extra_of, put_extra


class Members(Showing):
    """S sets of weights, one per sample; each rank holds those of its own samples.

    The gradient passed to the optimiser is S times that of a loss that averages over samples: each
    member is trained as if it were alone, for any S.

    Parameters
    ----------
    network
        ``network(s)`` returns a module with the initial weights of member ``s``. A module is copied
        for each member, for methods whose members diverge from equal initial weights.
    samples
        ``S``, the number of samples of the sample group.
    own
        Members of this rank (default: all).
    prior_std
        Standard deviation of a normal prior of every weight (weight decay ``1 / (N prior_std^2)``
        in nats per item); None for no prior.
    autocast
        As in :class:`~hpcsamp.methods.mean_field.MeanField`.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.

    Attributes
    ----------
    members
        The samples whose weights this rank holds.
    weights
        ``(s, n)``, one row per member of this rank. In a method's state, every tensor with axes has
        the members on the first axis.
    """

    makes_networks = True

    def __init__(
        self,
        network: Callable[[int], nn.Module] | nn.Module,
        samples: int,
        own: range | None = None,
        *,
        prior_std: float | None = None,
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        if prior_std is not None and prior_std <= 0:
            raise UsageError(f"method.prior_std = {prior_std} must be greater than 0")
        members = range(samples) if own is None else own
        make = (lambda _: network) if isinstance(network, nn.Module) else network
        variables = [PlainVariables(module) for module in apart(make, members)]
        super().__init__(variables, seed, samples_per_pass, autocast)
        self.samples = samples
        self.members = members
        self.placement = SampleRows(members, samples)
        self.prior_std = prior_std
        self.layout = self.variables.trained
        initial = [self.layout.flatten(v.means()) for v in variables]
        self.weights = nn.Parameter(torch.stack(initial))
        self._alike: bool | None = None
        self._link()
        self._accumulator: RowAccumulator | None = None
        self._predicted: int | None = None

    def _holders(self) -> list[tuple[Put, Sequence[int] | None]]:
        pairs = zip(self.members, self._variables, strict=True)
        return [(variables.put, [member]) for member, variables in pairs]

    @classmethod
    def create(
        cls, network: Callable[[int | None], nn.Module], samples: int, own: range, **arguments: Any
    ) -> Self:
        """See :meth:`Method.create`."""
        return cls(network, samples, own, **arguments)

    def network_of(self, sample: int) -> nn.Module:
        """See :meth:`Method.network_of`."""
        return self._variables_of(sample).module

    def _variables_of(self, sample: int) -> Variables:
        row = self.place(sample)[0] if self.in_prediction else sample - self.members.start
        return self._variables[row]

    def some_prediction_sample(self) -> range:
        """See :meth:`Method.some_prediction_sample`."""
        known = self._predicted or self.prediction_samples(None)
        return share(known, self.samples, self.members.start)[:1]

    def forward(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> Tensor:
        """Evaluate some members, see :meth:`Method.forward`."""
        outputs = []
        for chunk, rows in self._rows(samples):
            inputs = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            place = self.place_of(chunk, step, index)
            outputs.append(self._evaluate(chunk, rows, inputs, stacked, place))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _rows(self, samples: range) -> Iterator[tuple[range, Tensor]]:
        """Iterate over chunks of samples with their ``(k, n)`` weights."""
        chunks = self.chunks(samples)
        if self.in_prediction:
            for chunk in chunks:
                name = (chunk, self._predicted)
                yield chunk, self.kept_draw(name, partial(self.prediction_rows, chunk))
            return
        first = self.members.start
        if self._accumulator is not None:
            for chunk in chunks:
                place = slice(chunk.start - first, chunk.stop - first)
                yield chunk, self._accumulator.rows(place)
            return
        # split instead of slices: its backward pass is one concatenation
        rows = self.weights[samples.start - first : samples.stop - first]
        yield from zip(chunks, rows.split(self.samples_per_pass), strict=True)

    def prediction_rows(self, samples: range) -> Tensor:
        """Return ``(k, n)`` weights of some prediction samples of this rank, without gradient."""
        first = self.members.start
        return self.weights.detach()[samples.start - first : samples.stop - first]

    def _evaluate(
        self, samples: range, rows: Tensor, x: Tensor, stacked: bool, place: Place
    ) -> Tensor:
        of, weights = [self._variables_of(s) for s in samples], self.layout.named(rows)
        if len(of) == 1 or self._are_alike():
            return self._run(of[0], weights | self._stacked(of), {}, x, len(of), stacked, place)
        outputs = []
        for row, variables in enumerate(of):  # each has its own module
            one, view = slice(row, row + 1), x[row : row + 1] if stacked else x
            own = {name: value[one] for name, value in weights.items()}
            alone = place.some([row])
            outputs.append(self._run(variables, own, {}, view, 1, stacked, alone))
        return torch.cat(outputs)

    def _are_alike(self) -> bool:
        """Whether the members' modules differ only in tensors, so that one can stand for all."""
        if self._alike is None:
            first, *others = (Traces(module) for module in self.networks)
            self._alike = all(first.plain() == other.plain() for other in others)
        return self._alike

    def _stacked(self, of: list[Variables]) -> dict[str, Tensor]:
        """Return ``(k, ...)`` constants of some members, except those that are equal for all."""
        if all(v is of[0] for v in of):
            return {}
        parts = [v.constants() for v in of]
        return {
            name: torch.stack([part[name] for part in parts])
            for name, value in parts[0].items()
            if not all(torch.equal(value, part[name]) for part in parts[1:])
        }

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Sum gradients into the rows of the members."""
        self._accumulator = RowAccumulator(self.weights)
        try:
            yield self._accumulator
        finally:
            self._accumulator = None

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """Negative log prior up to a constant, averaged over members; this rank's share."""
        if self.prior_std is None:
            return self.weights.new_zeros(())
        return self._squares(self.weights) / (2 * self.prior_std**2 * self.samples)

    def _squares(self, rows: Tensor) -> Tensor:
        """Sum the squares of ``(s, n)`` values over the weights that have a prior."""
        spans = [(a, b) for a, b, random in self.layout.runs(lambda v: v.random) if random]
        whole = spans == [(0, self.layout.size)]
        parts = [rows] if whole else [rows[:, a:b] for a, b in spans]
        return sum((part.square().sum() for part in parts), rows.new_zeros(()))

    def without_deterministic(self, rows: Tensor) -> Tensor:
        """Set entries of weights without uncertainty in ``(..., n)`` to 0, in place; return it."""
        for start, stop, random in self.layout.runs(lambda v: v.random):
            if not random:
                rows[..., start:stop] = 0
        return rows

    @property
    def gradient_scale(self) -> float:
        """Factor S of the gradient, because members are trained independently."""
        return float(self.samples)

    def prediction_samples(self, asked: int | None) -> int:
        """Return the number of members."""
        if asked not in (None, self.samples):
            raise UsageError(
                f"evaluation.samples = {asked}, but the predictive distribution of "
                f"{type(self).__name__} has its {self.samples} members: set it to {self.samples}, "
                f"or leave it out"
            )
        return self.samples

    def prediction_share(self, samples: int, parts: int, part: int) -> range:
        """Prediction samples of this rank's members; the members divide all samples in order."""
        if samples != self._predicted:
            self.state.estimates.forget()  # prediction samples now belong to other members
        self._predicted = samples
        first, last = (share(samples, self.samples, m) for m in (self.members[0], self.members[-1]))
        return range(first.start, last.stop)

    def place(self, sample: int) -> tuple[int, int, int]:
        """Return the member of a prediction sample.

        Returns
        -------
        tuple
            The row of the member on this rank, the index among the member's prediction samples, and
            their number, for the total last passed to :meth:`prediction_share`.
        """
        all_of_them = self._predicted or self.prediction_samples(None)
        member = ((sample + 1) * self.samples - 1) // all_of_them
        own = share(all_of_them, self.samples, member)
        return member - self.members.start, sample - own.start, len(own)

    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over ``(s, *shape)`` weights of each layer, of this rank's members."""
        yield from self.layout.named(self.weights.detach()).items()

    def pieces(self) -> dict[str, Pieces]:
        """See :meth:`Method.pieces`: the tensors with a value for each weight."""
        own = dict(self.state_dict())
        rows: dict[str, Pieces]
        rows = {n: self.layout for n, x in own.items() if _is_row(x, self.layout.size)}
        kept = {n: x for n, x in rows.items() if not n.startswith("constants.")}
        return kept | self.constant_pieces()

    def named_pieces(self) -> dict[str, Pieces]:
        """See :meth:`Method.named_pieces`."""
        return {v.name: v.part for v in self.layout.variables if v.part is not None}

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`Method.constants`; of each member."""
        pairs = zip(self.members, self._variables, strict=True)
        return {f"{s}.{name}": c for s, v in pairs for name, c in v.constants().items()}

    def constants_to_keep(self) -> dict[str, Tensor]:
        """Constants of this rank's members, ``(s, ...)``, see :meth:`Method.constants_to_keep`."""
        own = [variables.constants() for variables in self._variables]
        return {name: torch.stack([c[name] for c in own]) for name in own[0]}

    def take_constants(self, kept: Mapping[str, Tensor]) -> None:
        """Load each member's constants, see :meth:`Method.take_constants`."""
        for row, variables in enumerate(self._variables):
            for name, value in variables.constants().items():
                value.copy_(kept[name][row])

    def extra_to_keep(self) -> dict[str, Any]:
        """See :meth:`Method.extra_to_keep`; a list over the members for each submodule."""
        own = [extra_of(variables.module) for variables in self._variables]
        return {name: RowList(extra[name] for extra in own) for name in own[0]}

    def take_extra(self, kept: Mapping[str, Any]) -> None:
        """Load each member's extra state, see :meth:`Method.take_extra`."""
        for row, variables in enumerate(self._variables):
            own = {
                name: states[self.members[row] if len(states) == self.samples else row]
                for name, states in kept.items()
            }
            put_extra(variables.module, own)

    def _link(self) -> None:
        # a module that all members share shows the weights of the first
        for variables, row in reversed(list(zip(self._variables, self.weights.data, strict=True))):
            variables.show(self.layout.named(row), {})


def _is_row(x: Any, size: int) -> bool:
    return isinstance(x, Tensor) and x.dim() > 1 and x.shape[-1] == size


class RowAccumulator(Accumulator):
    """Sums gradients of one chunk of members after the other, each into its own rows."""

    def __init__(self, weights: nn.Parameter) -> None:
        super().__init__([])
        self._weights = weights.detach()
        self._sum = torch.zeros_like(weights)
        self._last: tuple[slice, Tensor] | None = None

    def rows(self, place: slice) -> Tensor:
        """Return the ``(k, n)`` weights of the next chunk."""
        rows = self._weights[place].requires_grad_()
        self._last = (place, rows)
        return rows

    def backward(self, value: Tensor, upstream: Tensor | None = None) -> None:
        """Add the gradient of the last evaluated chunk."""
        assert self._last is not None, "nothing was evaluated since the last backward pass"
        place, rows = self._last
        self._last = None
        self._sum[place].add_(torch.autograd.grad(value, rows, upstream)[0])

    def gradients(self) -> list[Tensor | None]:
        """Return the gradient of :attr:`Members.weights`."""
        return [self._sum]
