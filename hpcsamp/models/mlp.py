"""A multilayer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from hpcsamp.models.inputs import check_input, one_shape

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


class MLP(nn.Module):
    """Fully connected layers; the paper's time-series model is ``hidden=(128, 128)``.

    That model, from 96 quarter-hours to the next 24 (section 5.3), has ``(96 + 1) * 128 +
    (128 + 1) * 128 + (128 + 1) * 24 = 32,024`` parameters.

    Parameters
    ----------
    in_shape
        Shape of an input item, which is flattened.
    outputs
        Number of outputs per item.
    hidden
        Widths of the hidden layers; empty for a linear model.
    activation
        ``relu``, ``gelu``, ``tanh`` or ``silu``.
    dropout
        Rate of an ``nn.Dropout`` after each hidden layer; 0 for none. Monte Carlo dropout puts its
        own masks there.

    Raises
    ------
    ValueError
        If the activation is unknown, a width is below 1, or the rate is outside ``[0, 1)``.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        outputs: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation = {activation!r} must be one of {', '.join(ACTIVATIONS)}")
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden = {list(hidden)}: widths must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout} must be a rate, at least 0 and below 1")
        self.in_shape = in_shape = one_shape(in_shape, "mlp")
        widths = [math.prod(in_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *in_shape)`` to ``(B, outputs)``."""
        check_input(x, self.in_shape, self)
        y: Tensor = self.layers(x)
        return y
