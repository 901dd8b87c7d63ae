"""Evaluate a chunk of samples: ``k`` sets of values in a module, one or ``k`` sets of inputs.

Samples are evaluated nowhere else. Every strategy gives the same outputs and gradients up to the
order of float sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.weights.admission import Verdict, tried
from hpcsamp.weights.complex_parts import complex_of
from hpcsamp.weights.inputs import signature
from hpcsamp.weights.layers import naming
from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.routing import OtherCallsError, known_plan
from hpcsamp.weights.strategies import COMPILED, STRATEGIES, Chunk, Pass, loop


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
    """Return the outputs of ``k`` samples of a module. Works with autograd and ``torch.autocast``.

    Parameters
    ----------
    put
        Puts values into the module.
    call
        Evaluates the module with its current values, from ``(B, ...)`` inputs to ``(B, ...)``
        outputs.
    sampled
        ``(k, *shape)`` values by the name of a parameter or buffer, one for each sample; complex
        values as they are or as ``(k, *shape, 2)`` parts.
    shared
        ``shape`` values by name, the same for all samples.
    x
        ``(B, ...)`` inputs, or ``(k, B, ...)`` if ``stacked``; a tensor, or several inputs wrapped
        by :func:`~hpcsamp.weights.inputs.inputs_of`.
    samples
        ``k``.
    stacked
        Whether each sample has its own inputs.
    strategy
        ``"loop"``, ``"vmap"``, ``"batched"`` or ``"compiled"``; ``"auto"`` for the first of
        batched, vmap and loop that the module supports. If the module or the sizes do not support a
        strategy, the samples are evaluated in a loop; :func:`refusals` collects the reasons.
    place
        The place of the pass, which identifies the module's own random numbers
        (:mod:`hpcsamp.weights.routing`). None: calls are not routed, and the module draws as usual.

    Returns
    -------
    Tensor
        ``(k, B, ...)``.

    Raises
    ------
    UsageError
        If the strategy is unknown, if the number of values or inputs is not ``k``, or if the draws
        of the module are not defined for a batch of items.
    """
    if strategy != COMPILED:
        check_strategy(strategy)
    with naming(put.module):
        return _by(strategy, _chunk(put, call, sampled, shared, x, samples, stacked, place))


def _by(strategy: str, chunk: Chunk) -> Tensor:
    if strategy == "loop" or (chunk.samples == 1 and strategy != COMPILED):
        _agreed(chunk, loop.run)
        return loop.run(chunk)
    verdict = _known(chunk, strategy)
    if _agreed(chunk, verdict.run) and verdict.run is not None:
        try:
            return verdict.run(chunk)
        except OtherCallsError:  # each sample may draw differently
            return loop.run(chunk)
    if strategy != "auto":
        for reasons in _listening:
            reasons.append(verdict.reason or "")
    return loop.run(chunk)


def _agreed(chunk: Chunk, run: Pass | None) -> bool:
    """Whether all ranks of a data group evaluate a chunk by the same strategy.

    True if they exchange no batch statistics. Samples of a chunk on which they differ are evaluated
    one at a time. Collective over the data group if they exchange statistics.

    Raises
    ------
    UsageError
        If the ranks have different samples in the chunk.
    """
    state, place = chunk.put.state, chunk.place
    if state is None or place is None or place.trial or place.prediction or not state.exchanges:
        return True
    ways = [way for forms in STRATEGIES.values() for way in forms]
    way = ways.index(run) if run is not None else 0
    claim = torch.tensor([way, chunk.samples, place.samples[0]], dtype=torch.float64)
    assert state.group is not None
    others = state.group.gathered(claim.to(chunk.x.device))
    if (others[:, 1:] != others[0, 1:]).any():
        spans = ", ".join(f"{int(k)} from sample {int(first)}" for _, k, first in others.tolist())
        raise UsageError(
            f"the ranks of a data group evaluate different samples at once ({spans}), but "
            f"normalise over the whole batch together; set the same method.samples_per_pass on all"
        )
    return bool((others[:, 0] == way).all())


_listening: list[list[str]] = []


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Context that collects, in a list, why strategies requested by name were not used."""
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
    """Return why a strategy cannot evaluate a chunk; None if it can.

    The arguments are those of :func:`evaluate`.
    """
    check_strategy(strategy)
    chunk = _chunk(put, call, sampled, shared, x, samples, stacked, place)
    return None if strategy == "loop" or samples == 1 else _known(chunk, strategy).reason


def check_strategy(strategy: str) -> None:
    """Refuse an unknown strategy.

    Raises
    ------
    UsageError
        If the strategy is unknown; the message lists the known ones.
    """
    known = ["auto", *(name for name in STRATEGIES if name != COMPILED)]
    if strategy not in known:
        raise UsageError(f"method.strategy = {strategy!r}; choose from {', '.join(known)}")


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
        raise UsageError(f"stacked inputs are for {len(x)} samples, but there are {samples}")
    if place is not None and len(place.samples) != samples:
        raise UsageError(f"the place is for {len(place.samples)} samples, but there are {samples}")
    sampled = {name: _as_held(put, name, value) for name, value in sampled.items()}
    shared = {name: _as_held(put, name, value) for name, value in shared.items()}
    plan = known_plan(put, call, sampled, shared, x, stacked, place)
    return Chunk(put, call, sampled, shared, x, samples, stacked, place, plan)


def _as_held(put: Put, name: str, value: Any) -> Any:
    """Convert values to those of the module: complex ones are passed as ``(..., 2)`` parts.

    The last axis of a real parameter may also hold such parts; then pairs are copied to even
    addresses, which ``view_as_complex`` in a module needs and a view of a flat vector may not have.
    """
    if not isinstance(value, Tensor) or value.is_complex() or value.shape[-1:] != (2,):
        return value
    if name in put.pairs:
        return complex_of(value)
    odd = value.storage_offset() % 2 or any(stride % 2 for stride in value.stride()[:-1])
    return value.clone(memory_format=torch.contiguous_format) if odd else value


def _known(chunk: Chunk, strategy: str) -> Verdict:
    """Return the known verdict on a strategy for chunks of these sizes, or try the strategy."""
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
            verdict = Verdict(None, "the network is split over several ranks")
        elif batched:
            verdict = tried(chunk, "batched")
        if not batched or (strategy == "auto" and verdict.run is None):
            verdict = tried(chunk, "vmap" if batched else strategy)
        known[name] = verdict
    found: Verdict = known[name]
    return found
