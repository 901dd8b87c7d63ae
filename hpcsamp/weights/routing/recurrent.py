"""Dropout between the layers of LSTM, GRU and plain recurrent networks.

torch draws it within one function for all layers. Here each layer is called separately, and its
outputs are masked before the next layer. For packed sequences, the mask of a row is identified by
its item and its time step, whatever the other sequences of the batch are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.streams.branches import branches
from hpcsamp.weights.routing.dropout import LEVELS, KeptUnits, rate_of
from hpcsamp.weights.routing.dropout import dropout as masked
from hpcsamp.weights.routing.forms import SingleSample
from hpcsamp.weights.routing.masksembles import units_of
from hpcsamp.weights.routing.now import Now, Route
from hpcsamp.weights.strategies.chunk import NotPossibleError


def _layers(function: Any) -> Route:
    def route(now: Now, x: Any, second: Any, third: Any, *others: Any) -> Any:
        packed = isinstance(third, (tuple, list)) and not isinstance(others[0], bool)
        if packed or not isinstance(third, (tuple, list)):
            start, weights, biased, layers, rate, train, *more = third, *others
            before: tuple[Any, ...] = (second,)
        else:
            start, weights, before = second, third, ()
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
            x, *last = function(x, *before, state, own, biased, 1, 0.0, train, *more)
            ends.append(last)
            if layer < layers - 1:
                x = _packed(now, x, second, rate) if before else masked(now, x, rate, True)
        return x, *(torch.cat(parts) for parts in zip(*ends, strict=True))

    return route


@dataclass(frozen=True)
class _Keys:
    """Distribution whose draws are the stream keys themselves."""

    def __call__(self, keys: Tensor, count: int) -> Tensor:
        """See :class:`~hpcsamp.weights.routing.now.Numbers`."""
        return branches(keys, torch.arange(count, device=keys.device))


def _packed(now: Now, x: Tensor, sizes: Tensor, rate: float) -> Tensor:
    """Mask ``(rows, features)`` of packed sequences, with ``sizes`` rows at each time step."""
    if not isinstance(now.form, SingleSample):
        raise NotPossibleError("dropout between recurrent layers of packed sequences")
    if now.packed is None or now.packed.batch_sizes is not sizes:
        raise UsageError(
            "dropout between recurrent layers of packed sequences that were not passed to a layer, "
            "so that the item of a row is unknown; pass the packed sequence to a layer, or set a "
            "rate of 0"
        )
    level, shared = rate_of(now, rate)
    fixed = units_of(now, "dropout", x, 2, False)
    if level == 0 or not x.numel():
        return x
    kept = fixed or KeptUnits(level, 1 / (1 - level / LEVELS) if level < LEVELS else 0.0, x.dtype)
    count = sizes.to(x.device)
    step = torch.arange(len(count), device=x.device).repeat_interleave(count)
    item = torch.arange(len(step), device=x.device) - (count.cumsum(0) - count)[step]
    if now.packed.sorted_indices is not None:
        item = now.packed.sorted_indices[item]
    items = int(sizes[0])
    if shared:
        mask = now.draw("dropout", (items, x.shape[1]), kept, kept=True, shared=True)
        return x * mask.expand(items, -1)[item]
    keys = now.draw("dropout of packed sequences", (items,), _Keys())
    steps = branches(keys, torch.arange(len(count), device=x.device))
    return x * kept(steps[item, step], x.shape[1])


ROUTES: dict[Any, Route] = {
    function: _layers(function)
    for function in (torch._VF.lstm, torch._VF.gru, torch._VF.rnn_tanh, torch._VF.rnn_relu)
}
