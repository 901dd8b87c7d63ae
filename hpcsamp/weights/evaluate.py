"""Evaluate a chunk of samples: ``k`` sets of values in a module, one or ``k`` sets of inputs.

This is the one place that knows how samples are evaluated. Every strategy gives the same outputs
and gradients up to the order of float sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.weights.admission import Verdict, tried
from hpcsamp.weights.inputs import signature
from hpcsamp.weights.layers import naming
from hpcsamp.weights.parts import complex_of
from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.routing import OtherCallsError, known_plan
from hpcsamp.weights.strategies import STRATEGIES, Chunk, Pass, loop


def evaluate(
    put: Put,
    call: Callable[[Tensor], Tensor],
    sampled: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    x: Tensor,
    *,
    samples: int,
    stacked: bool = False,
    strategy: str = "loop",
    place: Place | None = None,
) -> Tensor:
    """Outputs of ``k`` samples of a module. Works with autograd and under ``torch.autocast``.

    Parameters
    ----------
    put
        Puts values into the module.
    call
        Evaluates the module as it is, ``(B, ...)`` inputs to ``(B, ...)`` outputs; the values are
        in the module when it is called.
    sampled
        ``(k, *shape)`` values by the name of a parameter or buffer, one for each sample; complex
        ones as they are or as ``(k, *shape, 2)`` parts.
    shared
        ``shape`` values by name, the same for all samples.
    x
        ``(B, ...)`` inputs, or ``(k, B, ...)`` if ``stacked``; a tensor, or what
        :func:`~hpcsamp.weights.inputs.inputs_of` makes of several.
    samples
        ``k``.
    stacked
        Whether each sample has inputs of its own.
    strategy
        ``"loop"``, ``"vmap"`` or ``"batched"``; ``"auto"`` for the first of batched, vmap and loop
        that the module allows. Where the module, or a coincidence of sizes, does not allow a
        strategy, the samples are evaluated in a loop; :func:`refusals` collects why.
    place
        Which pass it is, the name of what the module draws by itself
        (:mod:`hpcsamp.weights.routing`); None: nothing is routed, it draws as it is.

    Returns
    -------
    Tensor
        ``(k, B, ...)``.

    Raises
    ------
    UsageError
        For an unknown strategy, a number of values or inputs other than ``k``, or a module whose
        draws have no meaning for a batch of items.
    """
    check_strategy(strategy)
    with naming(put.module):
        return _by(strategy, _chunk(put, call, sampled, shared, x, samples, stacked, place))


def _by(strategy: str, chunk: Chunk) -> Tensor:
    if chunk.samples == 1 or strategy == "loop":
        _agreed(chunk, loop.run)
        return loop.run(chunk)
    verdict = _known(chunk, strategy)
    if _agreed(chunk, verdict.run) and verdict.run is not None:
        try:
            return verdict.run(chunk)
        except OtherCallsError:  # each sample may draw in its own way
            return loop.run(chunk)
    if strategy != "auto":
        for reasons in _listening:
            reasons.append(verdict.reason or "")
    return loop.run(chunk)


def _agreed(chunk: Chunk, run: Pass | None) -> bool:
    """Whether the ranks of a data group evaluate a chunk in the same way, where they exchange batch
    statistics in it: else each of its samples goes by itself.

    Collective over the data group, then.

    Raises
    ------
    UsageError
        If they have other samples in the chunk.
    """
    state, place = chunk.put.state, chunk.place
    if state is None or place is None or place.trial or place.prediction or not state.exchanges:
        return True
    ways = [way for forms in STRATEGIES.values() for way in forms]
    way = ways.index(run) if run is not None else 0
    mine = torch.tensor([way, chunk.samples, place.samples[0]], dtype=torch.float64)
    assert state.group is not None
    others = state.group.gathered(mine.to(chunk.x.device))
    if (others[:, 1:] != others[0, 1:]).any():
        spans = ", ".join(f"{int(k)} from {int(first)} on" for _, k, first in others.tolist())
        raise UsageError(
            f"the ranks of a data group evaluate other samples at once ({spans}), but normalise "
            f"over the whole batch together; give all of them the same method.samples_per_pass"
        )
    return bool((others[:, 0] == way).all())


_listening: list[list[str]] = []


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Why strategies that were named were not used within the block, in a list that fills."""
    reasons: list[str] = []
    _listening.append(reasons)
    try:
        yield reasons
    finally:
        _listening.remove(reasons)


def refusal(
    put: Put,
    call: Callable[[Tensor], Tensor],
    sampled: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    x: Tensor,
    *,
    samples: int,
    stacked: bool = False,
    strategy: str,
    place: Place | None = None,
) -> str | None:
    """Why a strategy cannot evaluate such a chunk; None if it can.

    The arguments are those of :func:`evaluate`.
    """
    check_strategy(strategy)
    chunk = _chunk(put, call, sampled, shared, x, samples, stacked, place)
    return None if strategy == "loop" or samples == 1 else _known(chunk, strategy).reason


def check_strategy(strategy: str) -> None:
    """Refuse a strategy that is none.

    Raises
    ------
    UsageError
        With those that there are.
    """
    if strategy != "auto" and strategy not in STRATEGIES:
        raise UsageError(f"method.strategy = {strategy!r}; there is auto, {', '.join(STRATEGIES)}")


def _chunk(
    put: Put,
    call: Callable[[Tensor], Tensor],
    sampled: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    x: Tensor,
    samples: int,
    stacked: bool,
    place: Place | None,
) -> Chunk:
    for name, value in sampled.items():
        if value.shape[0] != samples:
            raise UsageError(f"{name} has {len(value)} values for {samples} samples")
    if stacked and len(x) != samples:
        raise UsageError(f"stacked inputs are for {len(x)} samples, there are {samples}")
    if place is not None and len(place.samples) != samples:
        raise UsageError(f"the place is of {len(place.samples)} samples, there are {samples}")
    sampled = {name: _as_held(put, name, value) for name, value in sampled.items()}
    shared = {name: _as_held(put, name, value) for name, value in shared.items()}
    plan = known_plan(put, call, sampled, shared, x, stacked, place)
    return Chunk(put, call, sampled, shared, x, samples, stacked, place, plan)


def _as_held(put: Put, name: str, value: Any) -> Any:
    """Values as the module has them: complex ones are given as ``(..., 2)`` parts.

    Of a real parameter the last axis may hold such parts, too; then pairs are put at even places,
    where a view of a flat vector need not lie, as ``view_as_complex`` in a module wants them there.
    """
    if not isinstance(value, Tensor) or value.is_complex() or value.shape[-1:] != (2,):
        return value
    if name in put.pairs:
        return complex_of(value)
    odd = value.storage_offset() % 2 or any(stride % 2 for stride in value.stride()[:-1])
    return value.clone(memory_format=torch.contiguous_format) if odd else value


def _known(chunk: Chunk, strategy: str) -> Verdict:
    """What is known of a strategy for such a chunk, found by trying it if nothing is."""
    x, known = chunk.x, chunk.put.known
    name = (
        strategy,
        *signature(x),
        chunk.samples,
        chunk.stacked,
        x.device,
        chunk.put.modes(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled(x.device.type),
        chunk.plan is not None and chunk.plan.needed,
        *chunk.sampled,
    )
    if name not in known:
        batched = strategy in ("auto", "batched")
        if batched and chunk.put.parted:
            verdict = Verdict(None, "the network is in parts over several ranks")
        elif batched:
            verdict = tried(chunk, "batched")
        if not batched or (strategy == "auto" and verdict.run is None):
            verdict = tried(chunk, "vmap" if batched else strategy)
        known[name] = verdict
    found: Verdict = known[name]
    return found
