"""Evaluate recurrent layers with sampled weights, all samples at once in each time step.

torch's own kernels take one set of weights. An explicit cell is slower for one sample, but
evaluates several samples with the same number of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hpcsamp.weights.folding.fold import BatchRows, Fold
from hpcsamp.weights.folding.sampled import Sampled

State = tuple[Tensor, ...]
"""``(k, B, H)`` hidden state, and the cell state of an LSTM."""
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]
"""Returns the next state from projected inputs, the state, and recurrent weights and biases."""


def _lstm(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    h, c = state
    i, f, g, o = (inputs + _product(h, weight, bias)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    (h,) = state
    r, z, n = inputs.chunk(3, -1)
    hidden_r, hidden_z, hidden_n = _product(h, weight, bias).chunk(3, -1)
    n = torch.tanh(n + (r + hidden_r).sigmoid() * hidden_n)
    return (torch.lerp(n, h, (z + hidden_z).sigmoid()),)


def _tanh(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    return ((inputs + _product(state[0], weight, bias)).tanh(),)


def _relu(inputs: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    return ((inputs + _product(state[0], weight, bias)).relu(),)


def _layers(cell: Cell, states: int) -> Callable[..., Any]:
    def rule(
        fold: Fold,
        x: Any,
        start: Any,
        weights: Any,
        biased: Any,
        layers: int,
        dropout: float = 0.0,
        train: bool = False,
        bidirectional: bool = False,
        batch_first: bool = False,
    ) -> Any:
        """Layers of cells, see ``torch.nn.LSTM``; packed sequences are not supported."""
        whole = start if isinstance(start, (tuple, list)) else (start,)
        ways, each = 2 if bidirectional else 1, 4 if biased else 2
        if not isinstance(weights, (tuple, list)) or len(weights) != layers * ways * each:
            return NotImplemented
        if not isinstance(x, Tensor) or not all(isinstance(t, Tensor) for t in whole):
            return NotImplemented
        rows = _rows(fold, x, 0 if batch_first else 1)
        if rows is None or (dropout > 0 and train and layers > 1):
            return NotImplemented
        k = fold.samples
        seen = fold.out(x, rows).expand(k, *[-1] * x.dim())  # (k, T, B, features)
        seen = seen.transpose(1, 2) if batch_first else seen
        begin = [fold.out(t, BatchRows(1, rows.folded)).expand(k, *[-1] * t.dim()) for t in whole]
        last: list[State] = []
        for layer in range(layers):
            found = []
            for way in range(ways):
                at = layer * ways + way
                own = [_of_samples(w, k) for w in weights[at * each : (at + 1) * each]]
                state = tuple(t[:, at] for t in begin)
                y, state = _one_way(cell, seen, state, own, backwards=way == 1)
                found.append(y)
                last.append(state)
            seen = found[0] if ways == 1 else torch.cat(found, -1)
        y = seen.transpose(1, 2).flatten(0, 1) if batch_first else fold.into(seen, 1)
        ends = [torch.stack([s[i].flatten(0, 1) for s in last]) for i in range(states)]
        return y, *ends

    return rule


def _one_way(
    cell: Cell, x: Tensor, state: State, own: Sequence[Tensor], backwards: bool
) -> tuple[Tensor, State]:
    """Return the ``(k, T, B, H)`` outputs of a layer in one direction, and its last state."""
    weight, recurrent, *biases = own
    bias, recurrent_bias = biases or (None, None)
    projected = _product(x.flatten(1, 2), weight, bias).unflatten(1, x.shape[1:3]).unbind(1)
    outputs = []
    for inputs in reversed(projected) if backwards else projected:
        state = cell(inputs, state, recurrent, recurrent_bias)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs, 1), state


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply ``(k, B, in)`` by weights ``(k, out, in)``; returns ``(k, B, out)``."""
    return x @ weight.mT if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)


def _of_samples(weight: Any, count: int) -> Tensor:
    if type(weight) is Sampled:
        return weight.value
    found: Tensor = weight.expand(count, *weight.shape)
    return found


def _rows(fold: Fold, x: Tensor, axis: int) -> BatchRows | None:
    """Return the position of the layer's batch axis, whatever the sizes of the other axes."""
    if x.dim() != 3:
        return None
    count = x.shape[axis]
    if count % (fold.samples * fold.items) == 0:
        return BatchRows(axis, True)
    return BatchRows(axis, False) if fold.late and count % fold.items == 0 else None


RULES: dict[Any, Callable[..., Any]] = {
    torch._VF.lstm: _layers(_lstm, 2),
    torch._VF.gru: _layers(_gru, 1),
    torch._VF.rnn_tanh: _layers(_tanh, 1),
    torch._VF.rnn_relu: _layers(_relu, 1),
}
