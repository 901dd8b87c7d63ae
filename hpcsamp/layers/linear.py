"""Linear layers over channels that are split over the model ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpcsamp.layers.exchange import gather
from hpcsamp.layers.layer import Divided, Layer, uniform
from hpcsamp.layers.product import Kind, Split, product


class Linear(Layer):
    """Linear layer ``y = x W + b`` over split channels.

    Every rank multiplies its own input channels by their rows of W and sends the other ranks the
    terms of their output channels, while it computes the next terms. The weight has the shape
    ``(inputs, outputs)``, so that a rank's rows are contiguous.

    With R ranks on the channel axis and G on the spatial axis, N tokens and B bytes per value, a
    rank sends

        forward    N (outputs - own outputs) B, and its share of W to G - 1 ranks
        backward   N own outputs (R - 1) B, its share of W and terms of its gradient to G - 1 ranks

    in one exchange in each direction for ``R > 1``, and one more forward and two more backward for
    ``G > 1``. A bias is gathered over space, one more exchange in each direction.

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    bias
        Whether the layer has a bias.
    in_unit, out_unit
        Numbers of neighbouring channels that stay on one rank.
    name
        Name of the layer, for messages.

    Raises
    ------
    UsageError
        If there are fewer units than ranks of the channel axis.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        in_unit: int = 1,
        out_unit: int = 1,
        name: str = "a linear layer",
    ) -> None:
        super().__init__()
        over, other = self.axis.channels, self.axis.space
        self.inputs_per_output = inputs
        self._in = Divided(name, "inputs", inputs, over, other, in_unit)
        self._out = Divided(name, "outputs", outputs, over, other, out_unit)
        self.hold("weight", uniform((inputs, outputs), inputs), (self._in.held, (0, outputs)))
        if bias:
            self.hold("bias", uniform((outputs,), inputs), (self._out.held,))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., own inputs)`` to ``(..., own outputs)``."""
        if self.axis.size == 1:
            y = x @ self.weight
        else:
            flat = x.reshape(1, -1, x.shape[-1])
            split = product(flat, self.weight[None], self._in.shares, self._out.split, Kind.INNER)
            y = split.view(*x.shape[:-1], split.shape[-1])
        return y if self.bias is None else y + self._out.whole_part(self.bias)


class Joined(Layer):
    """Linear map of several tensors side by side, ``y = x_1 W_1 + x_2 W_2 + ... + b``.

    Each tensor is split on its own, so they need not be concatenated first. Exchanges are those of
    :class:`Linear`, except that the weights, which should be small, are gathered one by one and
    kept for the backward pass.

    Parameters
    ----------
    inputs
        Number of channels of each tensor.
    outputs
        Number of output channels.
    name
        Name of the layer, for messages.
    """

    bias: nn.Parameter

    def __init__(self, inputs: Sequence[int], outputs: int, name: str = "a linear layer") -> None:
        super().__init__()
        over, other = self.axis.channels, self.axis.space
        self.inputs_per_output = sum(inputs)
        self._in = [Divided(name, "inputs", n, over, other) for n in inputs]
        self._out = Divided(name, "outputs", outputs, over, other)
        for i, (n, divided) in enumerate(zip(inputs, self._in, strict=True)):
            whole = uniform((n, outputs), self.inputs_per_output)
            self.hold(f"weight{i}", whole, (divided.held, (0, outputs)))
        self.hold("bias", uniform((outputs,), self.inputs_per_output), (self._out.held,))

    def forward(self, *xs: Tensor) -> Tensor:
        """Map ``(..., own inputs)`` of each tensor to ``(..., own outputs)``."""
        weights = [
            gather(getattr(self, f"weight{i}"), -2, *divided.shares)
            for i, divided in enumerate(self._in)
        ]
        if self.axis.size == 1:
            first, *rest = (x @ w for x, w in zip(xs, weights, strict=True))
            y = sum(rest, first)
        else:
            x, w = torch.cat(xs, -1), torch.cat(weights, -2)
            flat, whole = x.reshape(1, -1, x.shape[-1]), Split(self.axis.alone, (len(w),))
            split = product(flat, w[None], whole, self._out.split, Kind.INNER)
            y = split.view(*x.shape[:-1], split.shape[-1])
        return y + self._out.whole_part(self.bias)
