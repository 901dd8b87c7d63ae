"""Position of the samples in the tensors of a pass, and thus in drawn tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpcsamp.weights.folding import Fold, Sampled


class Form(ABC):
    """Position of the samples in the tensors of a pass; see the subclasses."""

    #: Number of samples folded into the items of a tensor with items.
    folded: int = 1

    @abstractmethod
    def without_items(self, values: Tensor) -> Any:
        """Convert ``(k, *shape)`` values without items to this form."""

    @abstractmethod
    def with_items(self, values: Tensor, axis: int, folded: bool) -> Any:
        """Convert ``(k, *shape)`` values whose axis ``axis`` is that of the items to this form.

        ``folded``: whether tensors of the call also have the samples in that axis.
        """


class SingleSample(Form):
    """Samples are evaluated one at a time: tensors have no axis of samples."""

    def without_items(self, values: Tensor) -> Tensor:
        """See :meth:`Form.without_items`."""
        return values[0]

    def with_items(self, values: Tensor, axis: int, folded: bool) -> Tensor:
        """See :meth:`Form.with_items`."""
        return values[0]


class Vmapped(Form):
    """Samples are vectorised by ``torch.func.vmap``.

    Parameters
    ----------
    marker
        Any tensor with the samples on its first axis.
    """

    def __init__(self, marker: Tensor) -> None:
        self.marker = marker

    def without_items(self, values: Tensor) -> Any:
        """See :meth:`Form.without_items`."""
        return _InFront.apply(self.marker, values)

    def with_items(self, values: Tensor, axis: int, folded: bool) -> Any:
        """See :meth:`Form.with_items`."""
        return self.without_items(values)


class Folded(Form):
    """Samples are folded into the batch, see :mod:`hpcsamp.weights.folding`."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.folded = fold.samples

    def without_items(self, values: Tensor) -> Sampled:
        """See :meth:`Form.without_items`."""
        return Sampled(values, self.fold)

    def with_items(self, values: Tensor, axis: int, folded: bool) -> Any:
        """See :meth:`Form.with_items`."""
        return self.fold.into(values, axis) if folded else Sampled(values, self.fold)


class _InFront(torch.autograd.Function):
    """Make the first axis of ``(k, ...)`` values that of the samples in vmap."""

    @staticmethod
    def forward(marker: Tensor, values: Tensor) -> Tensor:
        """Return the values unchanged: only vmap has samples to separate."""
        return values

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing: draws have no gradient."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        """Return None: draws have no gradient."""
        return None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[int | None], marker: Tensor, values: Tensor
    ) -> tuple[Tensor, int]:
        """The first axis is that of the samples."""
        return values.view_as(values), 0  # torch would treat the input itself as unbatched
