"""An exponential moving average of the weights, used in evaluation and prediction.

    a_t = decay a_(t-1) + (1 - decay) w_t,   divided by 1 - decay^t

The division, as in Adam's moments, leaves no trace of where the average began: after the first step
it is the weights themselves. (Polyak and Juditsky 1992; Kingma and Ba 2015, section 3.) What a
module keeps beside its weights in floating point, such as running statistics, is averaged, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.methods import Method


class Average:
    """The moving average of what the outputs of a method depend on.

    Parameters
    ----------
    method
        Whose weights are averaged.
    decay
        Of the average, from above 0 to below 1; None for no average, with which nothing here does
        anything.

    Raises
    ------
    UsageError
        For a method that makes its predictions from the path of its weights by itself.
    """

    def __init__(self, method: Method, decay: float | None) -> None:
        if decay is not None and type(method).after_step is not Method.after_step:
            raise UsageError(
                f"training.ema = {decay}: {type(method).__name__} gathers its own draws along the "
                f"path of the weights, so that an average of them would not be used; leave it out"
            )
        self.method, self.decay = method, decay
        self._averages = [t.clone() for t in self._tensors()] if decay is not None else []

    def _tensors(self) -> list[Tensor]:
        held = self.method.held().values()
        return [t.data for t in held if t.is_floating_point() or t.is_complex()]

    def update(self) -> None:
        """After each step, when ``method.step`` has been advanced."""
        if self.decay is None:
            return
        weight = (1 - self.decay) / (1 - self.decay**self.method.step)
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._tensors(), weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the method has the average in the place of its weights."""
        if self.decay is None or self.method.step == 0:
            yield
            return
        tensors = self._tensors()
        weights = [t.clone() for t in tensors]
        with torch.no_grad():
            torch._foreach_copy_(tensors, self._averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(tensors, weights)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the average from a state of the method. The method's weights are overwritten: load
        them afterwards.
        """
        self.method.load_state_dict(state)
        for average, tensor in zip(self._averages, self._tensors(), strict=True):
            average.copy_(tensor)
