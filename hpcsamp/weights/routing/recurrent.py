"""Dropout between the layers of LSTM, GRU and plain recurrent networks.

torch draws it within one function for all layers. Here each layer is a call of its own, and what
goes from one to the next passes a mask.
"""

from __future__ import annotations

from typing import Any

import torch

from hpcsamp.errors import UsageError
from hpcsamp.weights.routing.dropout import dropout as masked
from hpcsamp.weights.routing.now import Now, Route


def _layers(function: Any) -> Route:
    def route(now: Now, x: Any, second: Any, third: Any, *others: Any) -> Any:
        packed = isinstance(third, (tuple, list)) and not isinstance(others[0], bool)
        if packed or not isinstance(third, (tuple, list)):
            start, weights, biased, layers, rate, train, *more = third, *others
            if not train or rate == 0 or layers < 2:
                return NotImplemented
            raise UsageError(
                "dropout between recurrent layers of packed sequences: what is drawn would depend "
                "on the lengths of the other items; give padded sequences, or a rate of 0"
            )
        start, weights = second, third
        biased, layers, rate, train, *more = others
        if not train or rate == 0 or layers < 2:
            return NotImplemented
        ways = 2 if more[0] else 1
        each, states = len(weights) // layers, isinstance(start, (tuple, list))
        ends: list[Any] = []
        for layer in range(layers):
            rows = slice(layer * ways, (layer + 1) * ways)
            state = tuple(t[rows] for t in start) if states else start[rows]
            own = weights[layer * each : (layer + 1) * each]
            x, *last = function(x, state, own, biased, 1, 0.0, train, *more)
            ends.append(last)
            if layer < layers - 1:
                x = masked(now, x, rate, True)
        return x, *(torch.cat(parts) for parts in zip(*ends, strict=True))

    return route


ROUTES: dict[Any, Route] = {
    function: _layers(function)
    for function in (torch._VF.lstm, torch._VF.gru, torch._VF.rnn_tanh, torch._VF.rnn_relu)
}
