"""Check in a few passes which buffers a module changes, and whether it may.

In training a buffer may change if its value after a batch is the mean of its values after the
halves of the batch: the result then does not depend on how a batch is divided over ranks
(:mod:`hpcsamp.weights.state`). A running maximum, a variance or a cache is not such a mean, unless
it belongs to batch normalisation, whose statistics are computed over all ranks. In prediction
nothing may change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.recording import Evaluate, hooked
from hpcsamp.methods.traces import Traces, content_of
from hpcsamp.weights.state import Replay, State


class Kept:
    """Observes how passes change the state of a module.

    Parameters
    ----------
    state
        Receives the names of the buffers that change; None in prediction.
    """

    def __init__(self, state: State | None) -> None:
        self._state = state
        self._notes: list[dict[str, Tensor]] = []
        self._whole: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Discard all recorded changes."""
        self._notes, self._whole = [], {}
        if self._state is not None:
            self._state.replayed = None

    def find(self, network: nn.Module, before: Traces, after: Traces) -> None:
        """Record which buffers a pass has changed.

        Raises
        ------
        UsageError
            If the pass has changed anything else.
        """
        for name, key in before.written(after):
            full = f"{name}.{key}" if name else key
            buffer = _buffer(network, full)
            if self._state is None or buffer is None:
                when = "in prediction" if self._state is None else "in the forward pass"
                raise UsageError(
                    f"{called(network, name)} changes its {key} {when}, where samples and ranks "
                    f"would overwrite each other's value; only buffers may change, and only in "
                    f"training"
                )
            self._state.changing[full] = buffer.is_floating_point() or buffer.is_complex()

    def replay(self, again: bool = False) -> None:
        """Record the batch statistics of the next passes; with ``again``, use the recorded ones."""
        if self._state is None:
            return
        if not again:
            self._state.replayed = Replay()
        elif self._state.replayed is not None:
            self._state.replayed.again = True
            self._whole = self._notes[-1] if self._notes else {}
            self._notes = []

    def note(self, state: State) -> None:
        """Record the state of the module after a pass."""
        self._notes.append(dict(state.seen))

    def check(self, network: nn.Module) -> None:
        """Compare the state after a batch with the states after its halves.

        Raises
        ------
        UsageError
            If a buffer depends on how items are batched; the message names it.
        """
        if self._state is None:
            return
        late, early = self._notes[-2:]
        for name, whole in self._whole.items():
            if name not in late or name not in early:
                continue  # a normalisation with statistics of the whole batch
            start = _buffer(network, name)
            if start is None or not _is_mean(start, whole[0], late[name][0], early[name][0]):
                owner, _, key = name.rpartition(".")
                raise UsageError(
                    f"{called(network, owner)} changes its {key} in the forward pass to a value "
                    f"that for a batch is not the mean over its halves (a maximum, a variance, a "
                    f"number of items, a cache), so that it would depend on the number of ranks; "
                    f"keep a mean over items, use nn.BatchNorm, or keep this layer in evaluation "
                    f"mode"
                )


def check_written(network: nn.Module, evaluate: Evaluate, items: slice) -> None:
    """Refuse a module whose forward pass writes to its parameters.

    During a pass the parameters are the weights of a sample: such a write would change the draw in
    every pass, or be lost after the pass.

    Raises
    ------
    UsageError
        If the module does; the message names the parameter, or the innermost submodule that writes
        several.
    """
    found: list[str] = []
    stack: list[dict[str, Any]] = []

    def begin(name: str, _: Any) -> None:
        stack.append(_contents(network.get_submodule(name), whole=not name))

    def end(name: str, _: Any) -> None:
        before, after = stack.pop(), _contents(network.get_submodule(name), whole=not name)
        changed = [key for key, value in before.items() if after.get(key, value) != value]
        if changed:
            found.append(name if name or len(changed) > 1 else changed[0])

    with hooked(network, begin, end):
        evaluate(items)
    if found:
        raise UsageError(
            f"{called(network, found[0])} writes to parameters in the forward pass, where they are "
            f"the weights of a sample, so that results would depend on the number of passes; use a "
            f"function of the parameters (e.g. a parametrization) and leave them unchanged"
        )


def _contents(part: nn.Module, whole: bool) -> dict[str, Any]:
    """Version counters of parameters by name, and checksums if ``whole``, to detect writes."""
    return {
        name: (p._version, content_of(p) if whole else None)
        for name, p in part.named_parameters()
        if not p.is_inference()
    }


def _buffer(network: nn.Module, name: str) -> Tensor | None:
    return dict(network.named_buffers(remove_duplicate=False)).get(name)


def _is_mean(start: Tensor, whole: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether a buffer after a batch is the mean of its values after the halves, up to rounding."""
    if not whole.shape == a.shape == b.shape == start.shape:
        return False
    if not (whole.is_floating_point() or whole.is_complex()):
        return torch.equal(whole, a) and torch.equal(whole, b)
    eps = torch.finfo(whole.dtype).eps
    kind: Any = torch.complex128 if whole.is_complex() else torch.float64
    whole, a, b, start = (t.to(kind) for t in (whole, a, b, start))
    limit = 1e-3 * _largest(whole - start) + 8 * eps * _largest(whole)
    return _largest(whole - (a + b) / 2) <= limit


def _largest(x: Tensor) -> float:
    return float(x.abs().nan_to_num().max()) if x.numel() else 0.0


def called(network: nn.Module, name: str) -> str:
    """Name and class of a submodule, for messages."""
    if not name:
        return type(network).__name__
    part = dict(network.named_modules()).get(name)
    return f"{name}, a {type(part).__name__}," if part is not None else name
