"""Parameters that the optimiser of a rank updates, and the reduction of their gradients.

Both follow from the placement of the parameters (:mod:`hpcsamp.grid.placement`). Weights that all
ranks hold are updated by all of them, members of an ensemble by the ranks that hold them. With
shards each rank of a sample group updates 1/P of the parameters (ZeRO stage 1; Rajbhandari et al.
2020): the gradient is summed and scattered over the group, each rank steps its part with its own
optimiser, and the parts are gathered. This transfers as many bytes as one allreduce and takes 1/P
of the optimiser's memory and time. If the weights themselves are divided among the ranks, each rank
updates its own with a gradient that the backward pass has scattered
(:mod:`hpcsamp.methods.sharing`). Both are exact for optimisers
that treat each element separately, such as SGD and Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.flat import FlatGradient, factor
from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.grid.placement import Replicated, SampleRows, Shard, Shares
from hpcsamp.methods.base import Method


def updates_of(method: Method, collectives: Collectives, sharded: bool = False) -> Updates:
    """Return the parameters of a method that this rank updates.

    Parameters
    ----------
    sharded
        Whether the ranks of a sample group divide the optimiser's state among them.

    Raises
    ------
    UsageError
        If the state cannot be divided.
    """
    placement = method.placement
    if sharded:
        for name, p in method.named_parameters():
            if p.requires_grad and p.is_complex():
                raise UsageError(
                    f"{name} of the {type(method).__name__} is complex: the optimiser state of "
                    f"complex parameters cannot be divided; set optimizer.sharded = false"
                )
        placement = placement.sharded(collectives.sample_rank, collectives.sample_size)
    return _KINDS[type(placement)](method.parameters(), collectives, placement)


class Updates:
    """All parameters that this rank holds.

    Parameters
    ----------
    parameters
        Parameters of the method, of one type on one device.
    collectives
        The transport.
    placement
        Placement of the optimiser's state.

    Attributes
    ----------
    parameters
        The trained parameters.
    parts
        Parameters for the constructor of the optimiser.
    stepped
        For each state of the optimiser, in the optimiser's order: a parameter, and a slice of
        its last axis (for members: of the columns), or None for the whole parameter.
    views
        Whether gradients of the parts are views of those of the parameters, which must stay where
        they are.
    """

    views = False

    def __init__(
        self, parameters: Iterable[nn.Parameter], collectives: Collectives, placement: Replicated
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.parts = self.parameters
        self.collectives, self.placement = collectives, placement
        self.stepped: list[tuple[nn.Parameter, slice | None]] = [(p, None) for p in self.parameters]

    @property
    def contiguous(self) -> bool:
        """Whether each part is contiguous and real, as fused optimisers need."""
        return all(p.is_contiguous() and not p.is_complex() for p in self.parts)

    @property
    def largest(self) -> int:
        """Bytes of the largest gradient that is exchanged."""
        return sum(p.nbytes for p in self.parameters)

    def zero(self) -> None:
        """Set gradients that are not in the flat tensor to zero."""

    def is_gone(self, gradient: FlatGradient) -> bool:
        """Whether all gradients were set to None, by other code than :meth:`zero`."""
        return gradient.is_gone

    def reduce(self, gradient: FlatGradient) -> None:
        """Convert this rank's gradient to that of all ranks. Collective."""
        self.collectives.reduce_gradient_(gradient.flat, self.placement.replicas)

    def clip(self, gradient: FlatGradient, largest: float) -> None:
        """Clip the norm of the gradient. Collective."""
        flat = gradient.flat
        norm = self._whole_norm(torch.linalg.vector_norm(flat))
        flat.mul_(factor(norm, largest))

    def _whole_norm(self, norm: Tensor) -> Tensor:
        """Return the norm of the whole network's gradient. Collective over the model group.

        ``norm`` is the norm of this rank's part, a scalar, or ``(s,)`` for members.
        """
        if self.collectives.model_size == 1:
            return norm
        return self.collectives.sum_over_model(norm.square()).sqrt()

    def share(self) -> None:
        """Receive the parameters that other ranks have updated. Collective."""

    def check_closure(self) -> None:
        """Raise a UsageError if the optimiser cannot evaluate the loss within its step."""

    def mismatch(self, optimizer: torch.optim.Optimizer, method: Method) -> UsageError | None:
        """Return an error if the parameters of an optimiser are not those of the method."""
        kind, whose = type(optimizer).__name__, type(method).__name__
        named = dict(method.named_parameters())
        own = parameters_of(optimizer)
        others = len(ids(own) - ids(named.values()))
        if others:
            return UsageError(
                f"{others} of the {len(own)} parameters of {kind} do not belong to the {whose} "
                f"that it must train; create it from method.parameters(), and make other "
                f"trainable tensors part of the module"
            )
        left = [repr(n) for n, p in named.items() if p.requires_grad and id(p) not in ids(own)]
        if left:
            return UsageError(
                f"{kind} lacks {', '.join(left[:3])}{' ...' * (len(left) > 3)} of the {whose} that "
                f"it must train: create it from all method.parameters(), and freeze the others "
                f"with requires_grad_(False)"
            )
        return None

    def trouble(self) -> UsageError | None:
        """Return an error if parameters were changed in a way that would lose updates."""
        return None


class OfRows(Updates):
    """Parameters of members, each of which is trained separately."""

    def clip(self, gradient: FlatGradient, largest: float) -> None:
        """Clip the norm of each member's gradient."""
        gradient.scale_rows(factor(self._whole_norm(gradient.row_norms()), largest))


class OfShares(Updates):
    """Shares of the weights that this rank holds; gradients are summed over samples."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], collectives: Collectives, placement: Shares
    ) -> None:
        super().__init__(parameters, collectives, placement.shard)

    def clip(self, gradient: FlatGradient, largest: float) -> None:
        """Clip the norm of the whole gradient. Collective over the sample group."""
        square = gradient.flat.double().square().sum()
        total = self.collectives.sum_over_samples(square)
        gradient.flat.mul_(factor(self.collectives.sum_over_model(total).sqrt(), largest))

    def check_closure(self) -> None:
        """See :meth:`Updates.check_closure`."""
        raise _no_closure()


class Shards(Updates):
    """A rank's part of each flattened parameter.

    Attributes
    ----------
    parts
        One parameter for each of ``parameters``, sharing its memory; empty if this rank has no
        part of it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        collectives: Collectives,
        placement: Replicated | None = None,
    ) -> None:
        rank, ranks = collectives.sample_rank, collectives.sample_size
        super().__init__(parameters, collectives, placement or Shard(rank, ranks))
        self._counts = [
            [len(share(p.numel(), ranks, r)) for r in range(ranks)] for p in self.parameters
        ]
        self.parts = []
        for p in self.parameters:
            own = self.placement.own(p.numel())
            self.parts.append(nn.Parameter(p.detach().view(-1)[own.start : own.stop]))

    @property
    def largest(self) -> int:
        """See :attr:`Updates.largest`."""
        return max(part.nbytes for part in self.parts)

    def zero(self) -> None:
        """Reset the gradients of the parts."""
        for part in self.parts:
            part.grad = None

    def reduce(self, gradient: FlatGradient) -> None:
        """Add the gradient of all ranks to that of each part; clear the flat one. Collective."""
        c, start = self.collectives, 0
        for p, part, counts in zip(self.parameters, self.parts, self._counts, strict=True):
            whole = gradient.flat[start : start + p.numel()]
            start += p.numel()
            new = c.scatter_sum(whole, counts, "sample")
            c.reduce_gradient_(new, self.placement.replicas)
            part.grad = new if part.grad is None else part.grad.add_(new)
        gradient.flat.zero_()

    def clip(self, gradient: FlatGradient, largest: float) -> None:
        """Clip the norm of the whole gradient. Collective over the sample group."""
        square = sum(float(_gradient(p).double().square().sum()) for p in self.parts)
        total = self.collectives.sum_over_samples(torch.tensor(square, dtype=torch.float64))
        bound = factor(self.collectives.sum_over_model(total).sqrt(), largest)
        for p in self.parts:
            _gradient(p).mul_(bound)

    def share(self) -> None:
        """Receive the parts that other ranks updated. Collective over the sample group."""
        for p, counts in zip(self.parameters, self._counts, strict=True):
            self.collectives.gather_(p.detach().view(-1), counts, "sample")

    def check_closure(self) -> None:
        """See :meth:`Updates.check_closure`."""
        raise _no_closure()

    def mismatch(self, optimizer: torch.optim.Optimizer, method: Method) -> UsageError | None:
        """See :meth:`Updates.mismatch`."""
        trained = (p for p in method.parameters() if p.requires_grad)
        if ids(self.parameters) == ids(trained) and ids(parameters_of(optimizer)) == ids(
            self.parts
        ):
            return None
        return UsageError(
            f"{type(optimizer).__name__} must be created from shards.parts of the shards of "
            f"{type(method).__name__}"
        )

    def trouble(self) -> UsageError | None:
        """See :meth:`Updates.trouble`."""
        pairs = zip(self.parts, self.parameters, strict=True)
        if all(a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() for a, b in pairs):
            return None
        return UsageError("the method's storage was replaced since its shards were created")


_KINDS: dict[type[Replicated], Callable[..., Updates]] = {
    Replicated: Updates,
    SampleRows: OfRows,
    Shard: Shards,
    Shares: OfShares,
}


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return all parameters of all groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def ids(parameters: Iterable[nn.Parameter]) -> set[int]:
    """Return the identities of parameters, because tensors compare by value."""
    return {id(p) for p in parameters}


def _no_closure() -> UsageError:
    return UsageError("optimizer.step(closure) cannot be used with shards of the parameters")


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
