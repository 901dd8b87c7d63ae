"""A multilayer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


class MLP(nn.Module):
    """Fully connected layers; the paper's time-series model is ``hidden=(128, 128)``.

    Parameters
    ----------
    in_shape
        Shape of an input item; flattened.
    outputs
        Number of outputs per item.
    hidden
        Widths of the hidden layers; none for a linear model.
    activation
        ``relu``, ``gelu``, ``tanh`` or ``silu``.

    Raises
    ------
    ValueError
        For an unknown activation or a width below 1.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation = {activation!r}: one of {', '.join(ACTIVATIONS)}")
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden = {list(hidden)}: widths must be at least 1")
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *in_shape)`` to ``(B, outputs)``."""
        y: Tensor = self.layers(x)
        return y
