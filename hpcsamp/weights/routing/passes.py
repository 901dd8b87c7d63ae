"""Passes of a module with routed calls, and trial passes that find the calls to route."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.weights.carry import Carry, carried
from hpcsamp.weights.inputs import each, signature
from hpcsamp.weights.layers import ModuleLayer, followed
from hpcsamp.weights.place import Place
from hpcsamp.weights.put import Put
from hpcsamp.weights.routing.batches import normalised
from hpcsamp.weights.routing.draw_plan import Call, OtherCallsError, Plan, Probe, compared
from hpcsamp.weights.routing.forms import Form, SingleSample
from hpcsamp.weights.routing.mode import Routing
from hpcsamp.weights.routing.now import Now
from hpcsamp.weights.routing.table import OF_VMAP, ROUTES

if TYPE_CHECKING:
    from hpcsamp.weights.strategies.chunk import Chunk


def routed(chunk: Chunk, form: Form, vmap: bool = False) -> Any:
    """Return a context in which calls of a chunk's module are routed, if they need to be.

    ``vmap``: whether the routes of :data:`.table.OF_VMAP` are also used.
    """
    others, carry = OF_VMAP if vmap else {}, _carried(chunk, range(chunk.samples))
    if chunk.place is None or chunk.plan is None or not chunk.plan.needed:
        mode: Any = Routing(_nowhere(chunk, form), {}, others) if others else nullcontext()
        return mode if carry is None else _Both(carry, mode)
    now = Now(chunk.place, form, chunk.items, chunk.x.device, chunk.plan)
    now.put, now.carry = chunk.put, carry
    mode = Routing(now, ROUTES, others)
    return mode if carry is None else _Both(carry, mode)


class _Both:
    """Two nested contexts."""

    def __init__(self, outer: Any, inner: Any) -> None:
        self._outer, self._inner = outer, inner

    def __enter__(self) -> None:
        self._outer.__enter__()
        self._inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)
        self._outer.__exit__(*error)


def alone(chunk: Chunk, row: int, x: Any) -> Any:
    """Return the outputs of one sample of a chunk, whose values are in the module.

    Raises
    ------
    UsageError
        If the module draws differently when it is called again with the same draws.
    """
    plan, place = chunk.plan, chunk.place
    if place is None or plan is None or not plan.needed:
        with _carried(chunk, [row]) or nullcontext():
            return chunk.call(x)
    place = place.some([row])
    for own in (plan, None):
        # if a layer is skipped at random, a pass makes other calls: probe this pass again
        now = Now(
            place,
            SingleSample(),
            chunk.items,
            x.device,
            own or probed(chunk.put.module, chunk.call, place, x, chunk.put),
        )
        now.put, now.carry = chunk.put, _carried(chunk, [row])
        try:
            with now.carry or nullcontext(), Routing(now, ROUTES):
                return chunk.call(x)
        except OtherCallsError as e:
            error = e
    raise UsageError(
        f"{type(chunk.put.module).__name__} draws random numbers, but not the same for the same "
        f"sample ({error}); its forward pass must make the same calls for any items"
    ) from error


def _carried(chunk: Chunk, rows: Sequence[int]) -> Carry | None:
    """Return the carry of a pass over some samples of a chunk; None if there is no state."""
    state, plan = chunk.put.state, chunk.plan
    if chunk.place is None or state is None:
        return None
    if not state.changing and not (plan is not None and plan.needed):
        return None
    return carried(chunk.put, chunk.place.some(rows), chunk.sampled, rows, chunk.items)


def known_plan(
    put: Put,
    call: Callable[[Any], Any],
    sampled: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    x: Any,
    stacked: bool,
    place: Place | None,
) -> Plan | None:
    """Return the plan of the draws of a module; probe the module if there is none yet.

    The arguments are those of a :class:`~hpcsamp.weights.strategies.chunk.Chunk`.

    Raises
    ------
    UsageError
        If the draws of a layer are not defined for a batch of items; the message names the layer.
    """
    if place is None:
        return None
    if isinstance(x, Tensor):
        kind: Any = (x.shape[2 if stacked else 1 :], x.dtype)
    else:
        kind = signature((x[0] if stacked else x)[:1])
    name: Any = ("draws", kind, x.device, place.prediction, place.masks, put.modes())
    if put.state is not None and put.state.estimates.running:
        name = ("estimated", *name)
    plan: Plan | None = put.known.get(name)
    if plan is None:
        values = {name: value[0] for name, value in sampled.items()}
        with put(shared), put(values):
            plan = probed(put.module, call, place.some([0]), x[0] if stacked else x, put)
        put.known[name] = plan
    return plan


def probed(
    module: nn.Module, call: Callable[[Any], Any], place: Place, x: Any, put: Put | None = None
) -> Plan:
    """Plan the draws of a module in a pass, by trial passes with two and three items.

    Parameters
    ----------
    module, call
        The module, and a function that evaluates it.
    place
        Place of a single sample.
    x
        ``(B, ...)`` inputs.
    put
        The :class:`~hpcsamp.weights.put.Put` of the module, if it may keep state.

    Raises
    ------
    UsageError
        If the draws of a layer are not defined for a batch of items; the message names the layer.
    """
    place = replace(place, trial=True, index=None)

    packs = False

    def probe(items: Any) -> tuple[Probe, bool]:
        nonlocal packs
        layers: list[ModuleLayer] = []
        found = Probe(layers)
        now = Now(place, SingleSample(), len(items), x.device, found)
        now.put, now.carry = put, None if put is None else carried(put, place, {}, [0], len(items))
        quiet = torch.no_grad(), _buffers_kept(module), followed(module, layers)
        blocks = now.carry or nullcontext(), Routing(now, ROUTES)
        with quiet[0], quiet[1], quiet[2], blocks[0], blocks[1]:
            try:
                call(items)
            except UsageError as e:
                raise UsageError(f"{layers[-1]}: {e}" if layers else str(e)) from e
        packs = packs or now.packed is not None
        return found, now.met

    try:
        two, met = probe(_some(x, 2))
        three, _ = probe(_some(x, 3)) if met or two.norms else (two, met)
    except UsageError:
        raise
    except Exception as e:
        whole, met = probe(x)  # raises errors that do not depend on the number of items
        if whole.seen:
            raise UsageError(
                f"{type(module).__name__} draws random numbers, and accepts {len(x)} items but not "
                f"2 or 3 ({str(e).splitlines()[0]:.120})"
            ) from e
        return Plan((), met, frozenset(whole.masking), packs=packs)
    calls: tuple[Call, ...] = compared(two, three) if two.seen or three.seen else ()
    return Plan(calls, met, frozenset(two.masking), normalised(two.norms, three.norms), packs)


def _some(x: Any, count: int) -> Any:
    """The first items, repeated if there are fewer."""

    def of(t: Tensor) -> Tensor:
        if not len(t):
            return t.new_zeros((count, *t.shape[1:]))
        return t[torch.arange(count, device=t.device) % len(t)]

    return each(of, x)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Context that restores the values of buffers that are written to within it."""
    before = [(b, b._version, b.clone()) for b in module.buffers() if not b.is_inference()]
    try:
        yield
    finally:
        for buffer, version, value in before:
            # torch's batch normalisation writes without increasing the version
            if buffer._version != version or not torch.equal(buffer, value):
                buffer.copy_(value)


def _nowhere(chunk: Chunk, form: Form) -> Now:
    place = Place(0, 0, range(chunk.samples))
    return Now(place, form, chunk.items, chunk.x.device, Plan((), False))
