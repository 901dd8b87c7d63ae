"""Find out by a few passes with a few items whether a module is a function of weights and inputs.

On any grid a run gives the same numbers only if an output depends on the item, the weights and what
the method draws, and on nothing else: neither on passes before it nor on the other items of its
batch. So the module is watched: what it holds and the states of the global generators before and
after a pass, two equal passes, and a batch against its two halves; first with a few items, then,
for what begins with more of them only, with all of a batch. It is left as it was. What the
forward pass may change is in :mod:`hpcsamp.methods.kept`, what the backward pass may do in
:mod:`hpcsamp.methods.backward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
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

#: Rounding within layers, as a multiple of what that of the inputs comes to; and what is too much.
AMPLIFIED, COARSE = 16, 0.1
#: Items of a pass.
ITEMS = 4
#: Data groups whose items are looked at together, at most.
GROUPS = 4


class Observer:
    """Watches the module of a method once in training and once in prediction.

    And again when submodules have changed between training and evaluation mode, and in training
    after 1, 4, 16, ... steps, as a module may count steps and do something else later.
    """

    def __init__(self) -> None:
        self._known: set[Any] = set()
        self._parts: dict[nn.Module, list[nn.Module]] = {}
        self._busy = False

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
                method.one_at_a_time(),  # values are looked at
                explained(network, few, lambda other: evaluate(slice(0, 1), other)),
            ):
                trained = None if method.in_prediction else list(method.parameters())
                own, eps = _replaced(method, network), _eps(method, few)
                many, many_index = _of_all_groups(x, index, method)
                of_many = partial(evaluate, x=many, index=many_index)

                def watched(of: Evaluate, items: int, rounding: float) -> None:
                    kept.begin()
                    watch(network, of, items, eps, own, kept, trained, rounding)
                    if len(many) > items + 1:
                        watch_all(network, of_many, len(many), eps, kept, rounding)

                least = math.sqrt(eps)
                try:
                    watched(evaluate, len(few), least)
                except DependsError as e:
                    if least > COARSE / 2:  # numbers of so few digits do not tell
                        raise
                    rounding = _rounding(network, evaluate, few, eps, kept)
                    if rounding <= least or e.apart > rounding:
                        raise
                    if rounding <= COARSE:
                        watched(evaluate, len(few), rounding)
                    else:  # few items are harder to normalise than many
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


def watch(
    network: nn.Module,
    evaluate: Evaluate,
    items: int,
    eps: float,
    own: Sequence[nn.Parameter],
    kept: Kept,
    trained: Sequence[Tensor] | None,
    rounding: float,
) -> None:
    """Refuse a module whose outputs depend on more than the item and the weights.

    Parameters
    ----------
    network
        The module.
    evaluate
        Evaluates it under its method, with the same draws each time.
    items
        How many there are, an even number.
    eps
        Precision of the numbers.
    own
        Parameters of the module that are not to be used, as the method puts others in their place.
    kept
        The state that the module may advance.
    trained
        What is trained by gradients: the backward pass is watched, too, and passes are those with
        gradients on. None in prediction.
    rounding
        Relative difference that rounding may make between a batch and its halves.

    Raises
    ------
    UsageError
        Naming the submodule, what it does, and what to do instead.
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
            first.put_back()  # a cache that the other half has filled is another one
            kept.replay(again=True)
            try:
                halves = _in_halves(network, evaluate, items)
            except (RuntimeError, ValueError, IndexError) as e:
                raise UsageError(
                    f"{type(network).__name__} takes {items} items and not {items // 2} of them "
                    f"({line_of(e)}); results must not depend on how items come in batches"
                ) from e
            kept.check(network)
            _check_coupling(network, evaluate, first, once, halves, rounding)
            if trained is not None:
                check_hooks(network, own)
                first.put_back()
                check_written(network, evaluate, everything)
                outputs = evaluate(everything), evaluate(everything)
                check_own(network, outputs[1], own)
                check_unregistered(network, outputs, [*trained, *network.parameters()])
                keys = lasting(outputs)
                check_backward(network, outputs[1])
                check_gradients(network, evaluate, items, keys, rounding)
    finally:
        first.put_back()
        generators.put_back()


def watch_all(
    network: nn.Module, evaluate: Evaluate, items: int, eps: float, kept: Kept, rounding: float
) -> None:
    """Refuse a module that lets the items of a whole batch influence each other.

    A capacity, a number of neighbours or a virtual batch shows only where there are more of them.

    Parameters
    ----------
    network, evaluate, items, eps, kept, rounding
        As in :func:`watch`, with all items.

    Raises
    ------
    UsageError
        Naming the submodule.
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
            # where numbers have few digits, a unit of some item may be rounded to the other side
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
    """A few items from all over a batch, at least two, and their positions.

    The second one of a single item is the first one backwards.
    """
    if len(x) == 1:
        x = each(lambda t: torch.cat([t, t.flip(list(range(1, t.dim())))]), x)
        index = None if index is None else torch.cat([index, index + 1])
    count = min(len(x), ITEMS) // 2 * 2
    rows = torch.linspace(0, len(x) - 1, count, device=x.device).long()
    return x[rows], torch.arange(len(x), device=x.device)[rows] if index is None else index[rows]


def _of_all_groups(x: Tensor, index: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """As many items as a batch of few data groups has: what one rank would see shows on each."""
    group = method.state.group
    copies = 1 if group is None else min(group.size, GROUPS)
    rows = torch.arange(len(x), device=x.device).repeat(copies)
    return (x, index) if copies == 1 else (x[rows], index[rows])


def _has_values(x: Tensor) -> bool:
    """Whether numbers can be looked at: not while shapes are tried, or a graph is traced."""
    tried = any(t.is_meta or torch._C._functorch.is_batchedtensor(t) for t in tensors(x))
    return not (tried or torch.compiler.is_compiling())


def _eps(method: nn.Module, x: Tensor) -> float:
    """Precision of what a method computes with."""
    kinds = [p.dtype for p in method.parameters() if p.is_floating_point()][:1]
    kinds += [k for k in [getattr(method, "autocast", None)] if k is not None]
    if torch.is_autocast_enabled(x.device.type):
        kinds.append(torch.get_autocast_dtype(x.device.type))
    eps = max((torch.finfo(kind).eps for kind in kinds), default=torch.finfo(torch.float32).eps)
    # products of float32 may be rounded to TF32 on a GPU
    return eps if x.device.type == "cpu" or eps < 1e-10 else max(eps, 2.0**-11)


def _replaced(method: Method, network: nn.Module) -> list[nn.Parameter]:
    """Parameters of the module in whose place the method puts others."""
    if method.in_prediction:
        return []
    own = {id(p) for p in method.parameters()}
    return [p for p in network.parameters() if p.requires_grad and id(p) not in own]


# What is refused ---------------------------------------------------------------------------------


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
    if found:  # not by another thread
        name, moved = found[0]
        raise UsageError(
            f"{called(network, name)} draws by itself, from {' and '.join(moved)}, so that another"
            f" number of ranks would draw other numbers; set its rate of dropout to 0, or take the "
            f"noise out of its forward pass; the method mc_dropout draws the masks of nn.Dropout "
            f"layers for it"
        )


def _check_memory(network: nn.Module, before: Traces, after: Traces) -> None:
    changed = before.changed(after)
    if changed:
        name, key = changed[0]
        raise UsageError(
            f"{called(network, name)} changes its attribute {key} from one pass to the next "
            f"({_shown(before.values[changed[0]])}, then {_shown(after.values[changed[0]])}); a "
            f"forward pass must leave nothing behind, as how many there are depends on the number "
            f"of ranks"
        )


def _check_repeated(network: nn.Module, once: Record, twice: Record, tolerance: float) -> None:
    name, found = next(once.suspects(twice, tolerance), ("", 0.0))
    apart = max(once.apart(twice), found)
    if apart > tolerance:
        raise UsageError(
            f"{called(network, name)} gives other outputs when it is evaluated again with equal "
            f"weights and inputs (they differ by {apart:.2g} of their size): it draws by itself or "
            f"keeps something from one pass to the next; take that out of its forward pass"
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
        # it may only have put its items into another order
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
            f" treats each item alone, or nn.BatchNorm with running statistics (track_running_stats"
            f" = True), whose batches are those of all ranks",
            apart,
        )


def _rounding(
    network: nn.Module, evaluate: Callable[..., Tensor], x: Tensor, eps: float, kept: Kept
) -> float:
    """Relative difference that rounding makes in outputs: several times that which inputs make
    that differ in their last digit.

    A normalisation divides by what is left of values that are nearly equal, such as those of a map
    of one pixel; a network of many of them amplifies rounding until it is seen.
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
        f'"float64", take larger inputs or batches, or set model.batch_norm = "group" or "frozen"'
    )


def _in_halves(network: nn.Module, evaluate: Evaluate, items: int, only: str = "") -> Record:
    """The second half first: a cache filled by it is another one than that of the whole batch."""
    middle = items // 2
    late = recorded(network, evaluate, slice(middle, items), only)
    return recorded(network, evaluate, slice(0, middle), only).followed_by(late)


def _shown(content: Any) -> str:
    return content if isinstance(content, str) and len(content) < 40 else "one value"
