"""Exponential moving average of the weights, used in evaluation and prediction.

    a_t = decay a_(t-1) + (1 - decay) w_t,   divided by 1 - decay^t

Dividing as in Adam's moments removes the influence of the initial value: after the first step the
average equals the weights (Polyak and Juditsky 1992; Kingma and Ba 2015, section 3). Floating-point
buffers of a module, such as running statistics, are averaged as well.
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
    """Moving average of all tensors that the outputs of a method depend on.

    Parameters
    ----------
    method
        Method whose weights are averaged.
    decay
        Decay of the average, between 0 and 1 (both excluded). None for no average; all methods then
        do nothing.

    Raises
    ------
    UsageError
        If the method already predicts from the trajectory of its weights.
    """

    def __init__(self, method: Method, decay: float | None) -> None:
        if decay is not None and type(method).after_step is not Method.after_step:
            raise UsageError(
                f"training.ema = {decay}: {type(method).__name__} predicts from weights that it "
                f"collects during training, so an average of them would not be used; leave it out"
            )
        self.method, self.decay = method, decay
        self._averages = [t.clone() for t in self._tensors()] if decay is not None else []

    def _tensors(self) -> list[Tensor]:
        held = self.method.held().values()
        return [t.data for t in held if t.is_floating_point() or t.is_complex()]

    def update(self) -> None:
        """Update the average after each step, when ``method.step`` has been incremented."""
        if self.decay is None:
            return
        weight = (1 - self.decay) / (1 - self.decay**self.method.step)
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._tensors(), weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the average in place of the weights of the method within the block."""
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
        """Load the average from a state of the method.

        This overwrites the method's weights, so load them afterwards.
        """
        self.method.load_state_dict(state)
        for average, tensor in zip(self._averages, self._tensors(), strict=True):
            average.copy_(tensor)
