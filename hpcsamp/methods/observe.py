"""Check in a few passes with a few items that a module is a function of weights and inputs.

The results of a run are the same on any grid only if an output depends on the item, the weights and
the draws of the method, and on nothing else: neither on earlier passes nor on the other items of
its batch. So the module is observed: its state and the states of the global generators before and
after a pass, two equal passes, and a batch against its two halves; first with a few items, then
with a whole batch, for effects that need more items. Afterwards the module is restored.
:mod:`hpcsamp.methods.kept` defines what the forward pass may change, and
:mod:`hpcsamp.methods.backward` what the backward pass may do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hpcsamp import heap
from hpcsamp.errors import UsageError
from hpcsamp.explain import pointing_to
from hpcsamp.generators import Generators
from hpcsamp.methods.backward import (
    check_gradients,
    check_hooks,
    check_unregistered,
    lasting,
)
from hpcsamp.methods.failing import DependsError, explained, line_of
from hpcsamp.methods.graphs import check_backward, check_own
from hpcsamp.methods.kept import Kept, called, check_written
from hpcsamp.methods.recording import Evaluate, Record, hooked, recorded
from hpcsamp.methods.traces import Traces
from hpcsamp.weights import inputs_of
from hpcsamp.weights.inputs import each, tensors

if TYPE_CHECKING:
    from hpcsamp.methods.base import Method

#: Rounding within layers, as a multiple of that of the inputs; and the largest accepted rounding.
AMPLIFIED, COARSE = 16, 0.1
#: Number of items of a pass.
ITEMS = 4
#: Largest number of data groups whose items are evaluated together.
GROUPS = 4


class Observer:
    """Observes the module of a method in its first pass in training, and in prediction.

    It observes it again when submodules have changed between training and evaluation mode, and in
    training after 1, 4, 16, ... steps, because a module may count steps and change its behaviour.
    """

    def __init__(self) -> None:
        self._known: set[Any] = set()
        self._parts: dict[nn.Module, list[nn.Module]] = {}
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether passes are those of an observation."""
        return self._busy

    def look(
        self,
        method: Method,
        x: Tensor,
        samples: range,
        step: int | None,
        stacked: bool,
        index: Tensor | None,
    ) -> None:
        """See :meth:`Method.observe`."""
        if self._busy or not samples or not len(x):
            return
        network = method.network_of(samples.start) or method
        parts = self._parts.get(network)
        if parts is None:
            parts = self._parts[network] = list(network.modules())
        x = inputs_of(x, stacked)
        counted = 0 if method.in_prediction else (method.step.bit_length() + 1) // 2
        mode = (method.in_prediction, counted, *[part.training for part in parts])
        if mode in self._known or not _has_values(x):
            return
        x = x[0] if stacked else x
        few, few_index = _some_items(x, index)
        if index is None:
            index = torch.arange(len(x), device=x.device)
        self._busy = True
        try:
            kept = Kept(None if method.in_prediction else method.state)

            def evaluate(rows: slice, x: Tensor = few, index: Tensor = few_index) -> Tensor:
                y: Tensor = method(x[rows], samples=samples[:1], step=step, index=index[rows])
                kept.note(method.state)
                return y[0]

            with (
                method.trying(),
                method.one_at_a_time(),  # the checks need values
                explained(network, few, lambda other: evaluate(slice(0, 1), other)),
            ):
                trained = None if method.in_prediction else method
                own, eps = _replaced(method, network), _eps(method, few)
                many, many_index = _of_all_groups(x, index, method)
                of_many = partial(evaluate, x=many, index=many_index)

                def watched(of: Evaluate, items: int, rounding: float) -> None:
                    kept.begin()
                    with pointing_to("layer"):
                        watch(network, of, items, eps, own, kept, trained, rounding)
                        if len(many) > items + 1:
                            watch_all(network, of_many, len(many), eps, kept, rounding)

                least = math.sqrt(eps)
                try:
                    watched(evaluate, len(few), least)
                except DependsError as e:
                    if least > COARSE / 2:  # too few digits to distinguish from rounding
                        raise
                    rounding = _rounding(network, evaluate, few, eps, kept)
                    if rounding <= least or e.apart > rounding:
                        raise
                    if rounding <= COARSE:
                        watched(evaluate, len(few), rounding)
                    else:  # few items are normalised less accurately than many
                        rounding = max(least, _rounding(network, of_many, many, eps, kept))
                        if rounding > COARSE:
                            raise UsageError(_ill(network, rounding, few)) from e
                        watched(of_many, len(many) // 2 * 2, rounding)
        finally:
            self._busy = False
            method.state.replayed = None
        if not method.in_prediction:
            with method.predicting():
                self.look(method, x, method.some_prediction_sample(), step, False, index)
        self._known.add(mode)
        heap.give_back()


def watch(
    network: nn.Module,
    evaluate: Evaluate,
    items: int,
    eps: float,
    own: Sequence[nn.Parameter],
    kept: Kept,
    trained: Method | None,
    rounding: float,
) -> None:
    """Refuse a module whose outputs depend on anything but the item and the weights.

    Parameters
    ----------
    network
        The module.
    evaluate
        Evaluates the module as its method does, with the same draws each time.
    items
        Number of items, an even number.
    eps
        Relative precision of the outputs (machine epsilon).
    own
        Parameters of the module that must not be used, because the method replaces them.
    kept
        State that the module may advance.
    trained
        The method, if it is trained by gradients: the backward pass is checked too, and passes
        have gradients on. None in prediction.
    rounding
        Relative difference between a batch and its halves that is attributed to rounding.

    Raises
    ------
    UsageError
        If the outputs depend on something else; the message names the submodule, its fault, and a
        remedy.
    """
    generators, first = Generators.now(), Traces(network)
    everything = slice(0, items)
    try:
        with torch.set_grad_enabled(trained is not None):
            _check_axis(network, evaluate(everything), items)
            _check_generators(network, evaluate, everything, generators)
            kept.find(network, first, Traces(network))
            first.put_back()
            kept.replay()
            once, before = recorded(network, evaluate, everything), Traces(network)
            twice, after = recorded(network, evaluate, everything), Traces(network)
            _check_memory(network, before, after)
            _check_repeated(network, once, twice, min(256 * eps, math.sqrt(eps)))
            first.put_back()  # the halves would fill a cache differently
            kept.replay(again=True)
            try:
                halves = _in_halves(network, evaluate, items)
            except (RuntimeError, ValueError, IndexError) as e:
                raise UsageError(
                    f"{type(network).__name__} accepts {items} items but not {items // 2} of them "
                    f"({line_of(e)}); results must not depend on how items are batched"
                ) from e
            kept.check(network)
            _check_coupling(network, evaluate, first, once, halves, rounding)
            if trained is not None:
                check_hooks(network, own)
                first.put_back()
                check_written(network, evaluate, everything)
                outputs = evaluate(everything), evaluate(everything)
                check_own(network, outputs[1], own)
                known = [*trained.parameters(), *trained.leaves_observed()]
                check_unregistered(network, outputs, [*known, *network.parameters()])
                keys = lasting(outputs)
                check_backward(network, outputs[1])
                del outputs  # their graphs hold the weights
                check_gradients(network, evaluate, items, keys, rounding)
    finally:
        first.put_back()
        generators.put_back()


def watch_all(
    network: nn.Module, evaluate: Evaluate, items: int, eps: float, kept: Kept, rounding: float
) -> None:
    """Refuse a module that lets the items of a whole batch influence each other.

    A capacity, a number of neighbours or a virtual batch has an effect only with many items.

    Parameters
    ----------
    network, evaluate, items, eps, kept, rounding
        As in :func:`watch`, for all items.

    Raises
    ------
    UsageError
        If items influence each other; the message names the submodule.
    """
    generators, first = Generators.now(), Traces(network)
    items, tolerance = items // 2 * 2, rounding
    try:
        with torch.no_grad():
            kept.replay()
            whole = Record(evaluate(slice(0, items)).detach())
            first.put_back()
            kept.replay(again=True)
            middle = items // 2
            late, early = (evaluate(r) for r in (slice(middle, items), slice(0, middle)))
            kept.check(network)
            halves = Record(torch.cat([early, late]))
            if whole.apart(halves) <= tolerance:
                return
            # with few digits, rounding may move a unit of some item across a threshold
            rows = [whole.rows(i).apart(halves.rows(i)) > tolerance for i in range(items)]
            if eps < 1e-10 or sum(rows) > 1 + items // 50:
                first.put_back()
                once = recorded(network, evaluate, slice(0, items))
                parts = _in_halves(network, evaluate, items)
                _check_coupling(network, evaluate, first, once, parts, tolerance)
    finally:
        first.put_back()
        generators.put_back()


def _some_items(x: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Select a few items, at least two, spread over a batch, and return them with their positions.

    If the batch has a single item, the second one is the first one reversed.
    """
    if len(x) == 1:
        x = each(lambda t: torch.cat([t, t.flip(list(range(1, t.dim())))]), x)
        index = None if index is None else torch.cat([index, index + 1])
    count = min(len(x), ITEMS) // 2 * 2
    rows = torch.linspace(0, len(x) - 1, count, device=x.device).long()
    return x[rows], torch.arange(len(x), device=x.device)[rows] if index is None else index[rows]


def _of_all_groups(x: Tensor, index: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """Repeat the items to the size of a few data groups, so that all ranks see the same effects."""
    group = method.state.group
    copies = 1 if group is None else min(group.size, GROUPS)
    rows = torch.arange(len(x), device=x.device).repeat(copies)
    return (x, index) if copies == 1 else (x[rows], index[rows])


def _has_values(x: Tensor) -> bool:
    """Whether values can be read: not while shapes are probed or a graph is traced."""
    tried = any(t.is_meta or torch._C._functorch.is_batchedtensor(t) for t in tensors(x))
    return not (tried or torch.compiler.is_compiling())


def _eps(method: nn.Module, x: Tensor) -> float:
    """Machine epsilon of the type in which a method computes."""
    kinds = [p.dtype for p in method.parameters() if p.is_floating_point()][:1]
    kinds += [k for k in [getattr(method, "autocast", None)] if k is not None]
    if torch.is_autocast_enabled(x.device.type):
        kinds.append(torch.get_autocast_dtype(x.device.type))
    eps = max((torch.finfo(kind).eps for kind in kinds), default=torch.finfo(torch.float32).eps)
    # a GPU may round products of float32 to TF32
    return eps if x.device.type == "cpu" or eps < 1e-10 else max(eps, 2.0**-11)


def _replaced(method: Method, network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the module that the method replaces."""
    if method.in_prediction:
        return []
    own = {id(p) for p in method.parameters()}
    return [p for p in network.parameters() if p.requires_grad and id(p) not in own]


# Refusals ----------------------------------------------------------------------------------------


def _check_axis(network: nn.Module, output: Tensor, items: int) -> None:
    if output.dim() == 0 or len(output) != items:
        raise UsageError(
            f"{type(network).__name__} has outputs of shape {tuple(output.shape)} for {items} "
            f"items; their first axis must be that of the batch"
        )


def _check_generators(
    network: nn.Module, evaluate: Evaluate, items: slice, before: Generators
) -> None:
    if not before.moved(Generators.now()):
        return
    found: list[tuple[str, list[str]]] = []
    stack: list[Generators] = []

    def begin(*_: Any) -> None:
        stack.append(Generators.now())

    def end(name: str) -> None:
        moved = stack.pop().moved(Generators.now())
        if moved:
            found.append((name, moved))

    with hooked(network, lambda *_: begin(), lambda name, *_: end(name)):
        evaluate(items)
    if found:  # else another thread has drawn
        name, moved = found[0]
        raise UsageError(
            f"{called(network, name)} draws random numbers from {' and '.join(moved)}, so that "
            f"results would depend on the number of ranks; set its dropout rate to 0, or remove "
            f"the noise from its forward pass; the method mc_dropout draws the masks of nn.Dropout "
            f"layers itself"
        )


def _check_memory(network: nn.Module, before: Traces, after: Traces) -> None:
    changed = before.changed(after)
    if changed:
        name, key = changed[0]
        raise UsageError(
            f"{called(network, name)} changes its attribute {key} between passes "
            f"({_shown(before.values[changed[0]])}, then {_shown(after.values[changed[0]])}); a "
            f"forward pass must leave no state behind, because the number of passes depends on the "
            f"number of ranks"
        )


def _check_repeated(network: nn.Module, once: Record, twice: Record, tolerance: float) -> None:
    name, found = next(once.suspects(twice, tolerance), ("", 0.0))
    apart = max(once.apart(twice), found)
    if apart > tolerance:
        raise UsageError(
            f"{called(network, name)} returns different outputs when it is evaluated again with "
            f"equal weights and inputs (they differ by {apart:.2g} of their size): it draws random "
            f"numbers or keeps state between passes; remove this from its forward pass"
        )


def _check_coupling(
    network: nn.Module,
    evaluate: Evaluate,
    first: Traces,
    whole: Record,
    halves: Record,
    tolerance: float,
) -> None:
    apart, where = whole.apart(halves), ""
    items = len(whole.output)
    for name, found in whole.suspects(halves, tolerance):
        # the submodule may only have reordered its items
        first.put_back()
        again = recorded(network, evaluate, slice(0, items), name)
        first.put_back()
        parts = _in_halves(network, evaluate, items, name)
        if again.sorted_apart(parts) > tolerance:
            apart, where = max(apart, found), name
            break
    if apart > tolerance:
        raise DependsError(
            f"{called(network, where)} makes an item's outputs depend on the other items of its "
            f"batch (by {apart:.2g} of their size, between a batch and its halves), so that "
            f"results would depend on the number of ranks and on evaluation.batch; use a layer that"
            f" treats each item separately, or nn.BatchNorm with running statistics "
            f"(track_running_stats = True), whose batches are those of all ranks",
            apart,
        )


def _rounding(
    network: nn.Module, evaluate: Callable[..., Tensor], x: Tensor, eps: float, kept: Kept
) -> float:
    """Relative difference of outputs that rounding may cause: a multiple of the change caused by
    inputs that differ in their last digit.

    A normalisation divides by the differences of nearly equal values, such as those of a map of one
    pixel; a network with many normalisations amplifies rounding until it is visible.
    """

    def shaken(t: Tensor) -> Tensor:
        if not (t.is_floating_point() or t.is_complex()):
            return t
        signs = torch.arange(t.numel(), device=t.device).cos().sign().view(t.shape)
        return t * (1 + eps * signs).to(t.dtype)

    generators, first = Generators.now(), Traces(network)
    everything = slice(0, len(x))
    try:
        with torch.no_grad():
            kept.begin()
            kept.replay()
            once = Record(evaluate(everything).detach())
            first.put_back()
            kept.replay(again=True)
            return AMPLIFIED * once.apart(Record(evaluate(everything, x=each(shaken, x)).detach()))
    finally:
        first.put_back()
        generators.put_back()


def _ill(network: nn.Module, rounding: float, x: Tensor) -> str:
    shapes = ", ".join(str(tuple(t.shape[1:])) for t in tensors(x))
    return (
        f"{type(network).__name__} amplifies rounding: inputs of shape {shapes} that differ in "
        f"their last digit change its outputs by {rounding / AMPLIFIED:.2g} of their size, so that "
        f"results would depend on the number of ranks and on the machine; set training.precision = "
        f'"float64", use larger inputs or batches, or set model.batch_norm = "group" or "frozen"'
    )


def _in_halves(network: nn.Module, evaluate: Evaluate, items: int, only: str = "") -> Record:
    """Evaluate the second half first: it fills a cache differently from the whole batch."""
    middle = items // 2
    late = recorded(network, evaluate, slice(middle, items), only)
    return recorded(network, evaluate, slice(0, middle), only).followed_by(late)


def _shown(content: Any) -> str:
    return content if isinstance(content, str) and len(content) < 40 else "one value"
