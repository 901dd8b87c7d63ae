"""Where samples are while a pass is under way: what a drawn tensor has to look like there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hpcsamp.weights.folding import Fold, Sampled


class Form(ABC):
    """How a pass holds its samples."""

    #: Samples that are folded into the items of a tensor that has them.
    folded: int = 1

    @abstractmethod
    def without_items(self, values: Tensor) -> Any:
        """What the module is to see of ``(k, *shape)`` values."""

    @abstractmethod
    def with_items(self, values: Tensor, axis: int, folded: bool) -> Any:
        """What the module is to see of ``(k, *shape)`` values whose items are in an axis.

        ``folded``: whether tensors of the call have the samples in that axis, too.
        """


class Alone(Form):
    """One sample: tensors are those of the module."""

    def without_items(self, values: Tensor) -> Tensor:
        """See :meth:`Form.without_items`."""
        return values[0]

    def with_items(self, values: Tensor, axis: int, folded: bool) -> Tensor:
        """See :meth:`Form.with_items`."""
        return values[0]


class Vmapped(Form):
    """Within ``torch.func.vmap``.

    Parameters
    ----------
    marker
        Any tensor that has the samples in front.
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
    """``(k, ...)`` values as those of the sample that is being vmapped."""

    @staticmethod
    def forward(marker: Tensor, values: Tensor) -> Tensor:
        """Of no sample: only within vmap is there anything to do."""
        return values

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: draws have no gradient."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        """Draws have no gradient."""
        return None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[int | None], marker: Tensor, values: Tensor
    ) -> tuple[Tensor, int]:
        """The first axis is that of the samples."""
        return values.view_as(values), 0  # torch would take the input itself for what it was
