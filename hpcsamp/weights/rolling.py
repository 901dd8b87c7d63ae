"""Evaluate several applications of a network to its own outputs as one pass.

A method draws the weights of a sample, and the masks of a layer, once for a pass: a sample stays
the same over all applications, whatever the method, the strategy and the memory mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcsamp.weights.inputs import Inputs
from hpcsamp.weights.routing.again import draw_again

START, FORCED = "x", "forced"
"""Names of the inputs of such a pass: the first input, and what is known of the later ones."""


@dataclass(frozen=True)
class Rolling:
    """The next input of a network from its outputs: the others stay as they are.

    Attributes
    ----------
    state
        Function that returns the predicted variables ``(B, V, ...)``, in the units of the inputs,
        from the outputs ``(B, ...)``.
    order
        ``(C,)`` for each input channel: its position among the ``C`` channels of the last input,
        the ``V`` predicted ones and the ``F`` forced ones, in this order.
    """

    state: Callable[[Tensor], Tensor]
    order: Tensor

    def __call__(self, call: Callable[[Tensor], Tensor], x: Inputs) -> Tensor:
        """Return ``(B, k, ...)`` outputs of ``k`` applications.

        Parameters
        ----------
        call
            Evaluates the network.
        x
            ``x``, the first input ``(B, C, ...)``, and ``forced``, the known channels of the later
            ones ``(B, k - 1, F, ...)``.
        """
        current, forced = x.named[START], x.named[FORCED]
        outputs = [call(current)]
        for later in forced.unbind(1):
            state = self.state(outputs[-1]).to(current.dtype)
            known = torch.cat([current, state, later.to(current.dtype)], 1)
            current = known.index_select(1, self.order)
            draw_again()
            outputs.append(call(current))
        return torch.stack(outputs, 1)
