"""Interface of exchanges between ranks for losses and optimisers, with autograd functions.

There are two kinds of exchange. Small statistics are exchanged within the sample group, inside the
loss, and are differentiable in the sense of design law 2: the forward pass returns the value of the
group, and the backward pass reaches only this rank's own samples. Gradients are exchanged once per
step over all ranks, as one flat tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.grid import Over, Topology, together
from hpcsamp.grid.parts import Part
from hpcsamp.serial import whole_job


class Collectives(ABC):
    """Group sums for losses and the gradient reducer; one subclass per transport.

    Attributes
    ----------
    name
        Name in ``parallel.collectives``.
    sample_size, sample_rank, data_size, data_rank, model_size, model_rank
        ``P``, ``D`` and ``M``, and the position of this rank on these axes.
    rank
        World rank.
    whole_job
        Whether these are all ranks of the job.
    claims
        Values that the loss of this rank assumes to be the same on all ranks, by name. They are
        compared with each gradient (:mod:`hpcsamp.collectives.sameness`).
    step_seconds
        Seconds of compute per step on this rank; None before they are known. A transport may
        derive its settings from them when it starts.
    """

    name: str
    sample_size: int = 1
    sample_rank: int = 0
    data_size: int = 1
    data_rank: int = 0
    model_size: int = 1
    model_rank: int = 0
    rank: int = 0
    whole_job: bool = False
    step_seconds: float | None = None

    @cached_property
    def claims(self) -> dict[str, Any]:
        """Initialise the attributes, see the class."""
        return {}

    # Implemented by transports, without autograd --------------------------------------------

    @abstractmethod
    def sum_(self, x: Tensor, over: Over) -> None:
        """Sum a contiguous tensor over the ranks ``over``, in place."""

    @abstractmethod
    def max_(self, x: Tensor, over: Over) -> None:
        """Take the elementwise maximum over the ranks ``over``, in place."""

    @abstractmethod
    def gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Concatenate the ``(counts[r], ...)`` tensors of the ranks along axis 0, in rank order."""

    @abstractmethod
    def tell(self, thing: Any, over: Over) -> list[Any]:
        """Gather one small object from each of the ranks ``over``, in rank order."""

    @abstractmethod
    def copy_first_(self, x: Tensor, over: Over) -> None:
        """Overwrite a tensor in place with that of the first of the ranks ``over``."""

    # Transports may override these with faster ones -------------------------------------------

    def expect(self, size: int) -> None:  # noqa: B027  (a transport may have nothing to prepare)
        """Prepare for exchanges of gradients; called once. Collective over the world.

        Parameters
        ----------
        size
            Bytes of the largest gradient of this rank; ranks may have different ones.
        """

    def sum_gradient_(self, x: Tensor, over: Over) -> None:
        """Sum a gradient, which may be large, over the ranks ``over``, in place."""
        self.sum_(x, over)

    def begin_sum_gradient(self, x: Tensor, over: Over) -> Callable[[], None]:
        """Begin :meth:`sum_gradient_` of a tensor, which must not change until it is complete.

        Returns
        -------
        Callable
            Function that waits for the sum. Other sums over the same ranks may begin before that,
            in the same order on all of them.
        """
        self.sum_gradient_(x, over)
        return _nothing

    def scatter_sum(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Sum a flat tensor over the ranks; the r-th of them receives ``counts[r]`` elements."""
        whole = x.clone()
        self.sum_(whole, over)
        return whole.split(list(counts))[self.place(over)].clone()

    def all_to_all(self, x: Tensor, counts: Sequence[Sequence[int]], over: Over) -> Tensor:
        """Send a part of a flat tensor to each of some ranks, and concatenate those received.

        Parameters
        ----------
        counts
            ``counts[q][p]`` numbers go from the q-th rank to the p-th; 0 is allowed. Parts are in
            rank order.
        """
        sent = [sum(row) for row in counts]
        everyone, place = self.gather(x, sent, over).split(sent), self.place(over)
        return torch.cat(
            [y.split(list(row))[place] for y, row in zip(everyone, counts, strict=True)]
        )

    def begin_gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Callable[[], Tensor]:
        """Begin :meth:`gather` of a flat tensor, which must not change until it is complete.

        Returns
        -------
        Callable
            Function that waits for the result and returns it. Other exchanges over the same ranks
            may begin before that, in the same order on all of them.
        """
        found = self.gather(x, counts, over)
        return lambda: found

    def gather_(self, x: Tensor, counts: Sequence[int], over: Over) -> None:
        """Fill a flat tensor on all ranks; the r-th of them holds ``counts[r]`` of its elements."""
        x.copy_(self.gather(x.split(list(counts))[self.place(over)], counts, over))

    def total(self, numbers: np.ndarray, over: Over) -> np.ndarray:
        """Sum a few float64 numbers over the ranks ``over``."""
        summed = numbers.copy()
        self.sum_(torch.from_numpy(summed), over)
        return summed

    def settings(self) -> dict[str, Any]:
        """Return the name of the transport and its settings, for records."""
        return {"name": self.name}

    def size(self, over: Over) -> int:
        """Return the number of the ranks ``over``."""
        if over in ("world", "replicas"):
            models = self.model_size if over == "world" else 1
            return self.sample_size * self.data_size * models
        size: int = getattr(self, f"{over}_size")
        return size

    def place(self, over: Over) -> int:
        """Return the index of this rank among the ranks ``over``."""
        if over == "world":
            return self.rank
        if over == "replicas":
            return self.data_rank * self.sample_size + self.sample_rank
        place: int = getattr(self, f"{over}_rank")
        return place

    # For losses and optimisers ----------------------------------------------------------------

    def sum_over_samples(self, x: Tensor) -> Tensor:
        """Sum over the sample group; the backward pass is the identity (design law 2).

        With ``T = sum_over_samples(t(y_local))`` and a loss ``f(T)`` evaluated by every rank, the
        gradients of the ranks are those of their own samples, and their sum over the group is the
        gradient of the sequential algorithm.
        """
        return _SumOver.apply(x, self, "sample") if self.sample_size > 1 else x

    def max_over_samples(self, x: Tensor) -> Tensor:
        """Elementwise maximum over the sample group; not differentiable."""
        y = x.detach().clone(memory_format=torch.contiguous_format)
        if self.sample_size > 1:
            self.max_(y, "sample")
        return y

    def gather_over_samples(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Gather all samples of the group; the backward pass takes this rank's own rows.

        See design law 2.

        Parameters
        ----------
        x
            ``(counts[sample_rank], ...)``, this rank's samples.
        counts
            Number of samples of each rank of the group, in order.

        Returns
        -------
        Tensor
            ``(sum(counts), ...)``, in sample order.
        """
        return _GatherOverSamples.apply(x, counts, self) if self.sample_size > 1 else x

    def sum_over_model(self, x: Tensor) -> Tensor:
        """Sum over model ranks, which hold parts of the outputs; the backward is the identity.

        As with :meth:`sum_over_samples`, each rank evaluates the whole loss and has the gradient of
        its own part of the outputs.
        """
        return _SumOver.apply(x, self, "model") if self.model_size > 1 else x

    def gather_over_model(self, x: Tensor, parts: Sequence[Part]) -> Tensor:
        """Gather a tensor that is split over model ranks; the backward pass takes this rank's part.

        Parameters
        ----------
        x
            ``(..., *local)``, the part of this rank.
        parts
            Part of each model rank, in order.
        """
        return _GatherOverModel.apply(x, parts, self) if self.model_size > 1 else x

    def mean_over_data(self, x: Tensor) -> Tensor:
        """Return the mean over the data group, without gradient."""
        y = x.detach().clone(memory_format=torch.contiguous_format)
        if self.data_size > 1:
            self.sum_(y, "data")
        return y / self.data_size

    def reduce_gradient_(self, flat: Tensor, over: Over = "replicas") -> None:
        """Convert the ranks' gradients to the sequential one: sum over samples, mean over data.

        Parameters
        ----------
        over
            Ranks that hold the same parameters; ``"data"`` for parameters of this rank's samples.
        """
        if self.size(over) > 1:
            self.sum_gradient_(flat, over)
        self.average_(flat)

    def average_(self, flat: Tensor) -> None:
        """Convert a gradient summed over ranks to the mean over data, in place."""
        if self.data_size > 1:
            flat.div_(self.data_size)


def _nothing() -> None:
    """Wait for an exchange that is complete."""


class Alone(Collectives):
    """One process: every exchange is the identity, and no MPI library is needed.

    Parameters
    ----------
    topology
        The grid, which must have one rank; None without a grid.

    Raises
    ------
    UsageError
        If the grid has more than one rank.
    """

    name = "none"

    def __init__(self, topology: Topology | None = None) -> None:
        if topology is None:
            return
        with together(topology.world):
            if topology.size > 1:
                raise UsageError(
                    f'parallel.collectives = "none" works on one rank only, but there are '
                    f"{topology.size}: choose auto, horovod, mpi or torch"
                )
        self.whole_job = whole_job(topology.world)

    def sum_(self, x: Tensor, over: Over) -> None:
        """Do nothing: with one process, the tensor is the sum."""

    def max_(self, x: Tensor, over: Over) -> None:
        """Do nothing: with one process, the tensor is the maximum."""

    def gather(self, x: Tensor, counts: Sequence[int], over: Over) -> Tensor:
        """Return the tensor: this process has all rows."""
        return x

    def tell(self, thing: Any, over: Over) -> list[Any]:
        """Return a list of the object."""
        return [thing]

    def copy_first_(self, x: Tensor, over: Over) -> None:
        """Do nothing: this process is the first."""


class _SumOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, collectives: Collectives, over: Over) -> Tensor:
        y = x.detach().clone(memory_format=torch.contiguous_format)
        collectives.sum_(y, over)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class _GatherOverSamples(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], collectives: Collectives) -> Tensor:
        first = sum(counts[: collectives.sample_rank])
        ctx.own = slice(first, first + counts[collectives.sample_rank])
        return collectives.gather(x.detach().contiguous(), counts, "sample")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0][ctx.own], None, None


class _GatherOverModel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Sequence[Part], collectives: Collectives) -> Tensor:
        ctx.own = parts[collectives.model_rank]
        lead = x.shape[: x.dim() - len(ctx.own.local)]
        counts = [lead.numel() * part.size for part in parts]
        flat = collectives.gather(x.detach().reshape(-1).contiguous(), counts, "model")
        whole = x.new_empty(ctx.own.whole_of(x.shape))
        for part, numbers in zip(parts, flat.split(counts), strict=True):
            part.put(whole, numbers.view(*lead, *part.local))
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.own.cut(grads[0]), None, None
