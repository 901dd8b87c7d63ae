"""Find out by a few passes with a few items whether a module is a function of weights and inputs.

On any grid a run gives the same numbers only if an output depends on the item, the weights and what
the method draws, and on nothing else: neither on passes before it nor on the other items of its
batch. So the module is watched: what it holds and the states of the global generators before and
after a pass, two equal passes, and a batch against its two halves. It is left as it was. What the
forward pass may change is in :mod:`hpcsamp.methods.kept`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.generators import Generators
from hpcsamp.methods.graphs import check_backward, check_own
from hpcsamp.methods.kept import Kept, called
from hpcsamp.methods.recording import Evaluate, Record, hooked, recorded
from hpcsamp.methods.traces import Traces
from hpcsamp.weights import Inputs, inputs_of
from hpcsamp.weights.inputs import each, tensors

if TYPE_CHECKING:
    from hpcsamp.methods.base import Method

#: Items of a pass.
ITEMS = 4


class Observer:
    """Watches the module of a method once in training and once in prediction.

    And again when submodules have changed between training and evaluation mode.
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
        mode = (method.in_prediction, *[part.training for part in parts])
        if mode in self._known or not _has_values(x):
            return
        x, index = _some_items(x[0] if stacked else x, index)
        self._busy = True
        try:
            kept = Kept(None if method.in_prediction else method.state)

            def evaluate(rows: slice, x: Tensor = x) -> Tensor:
                y: Tensor = method(x[rows], samples=samples[:1], step=step, index=index[rows])
                kept.note(method.state)
                return y[0]

            with (
                method.trying(),
                method.one_at_a_time(),  # values are looked at
                _told_kind(network, x, lambda other: evaluate(slice(0, 1), other)),
            ):
                own, learns = _replaced(method, network), not method.in_prediction
                watch(network, evaluate, len(x), _eps(method, x), own, kept, learns)
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
    learns: bool,
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
    learns
        Whether it is trained: its backward pass is watched, too.

    Raises
    ------
    UsageError
        Naming the submodule, what it does, and what to do instead.
    """
    generators, first = Generators.now(), Traces(network)
    everything = slice(0, items)
    try:
        with torch.no_grad():
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
                    f"({_line(e)}); results must not depend on how items come in batches"
                ) from e
            kept.check(network)
            _check_coupling(network, evaluate, first, once, halves, math.sqrt(eps))
        if learns:
            output = evaluate(slice(0, 1))
            check_own(network, output, own)
            check_backward(network, output)
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


@contextmanager
def _told_kind(
    network: nn.Module, x: Tensor, evaluate: Callable[[Tensor], object]
) -> Iterator[None]:
    """Refuse numbers for a module that takes ids and the other way round: what fails with one kind
    of inputs and runs with the other one."""
    try:
        yield
    except HpcsampError:
        raise
    except Exception as e:
        kinds = [p.dtype for p in network.parameters() if p.is_floating_point()]
        named = x.named if isinstance(x, Inputs) else {"": x}
        for name, t in named.items():
            numbers = t.is_floating_point()
            other = torch.int64 if numbers else (*kinds, torch.get_default_dtype())[0]
            zeros = torch.zeros_like(t, dtype=other)
            try:
                with torch.no_grad():
                    evaluate(inputs_of({**named, name: zeros}) if name else zeros)
            except Exception:
                continue
            takes, given = ("ids", "numbers") if numbers else ("numbers", "ids")
            of, how = f" for {name}" * bool(name), f"--inputs {takes}"
            how = f"{name} as {takes}" if name else f"the inputs with {how}"
            raise UsageError(
                f"the network takes {takes} and not {given}{of} (of {t.dtype}: {_line(e)}); ingest "
                f"{how}, or name another network"
            ) from e
        raise


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
        raise UsageError(
            f"{called(network, where)} makes an item's outputs depend on the other items of its "
            f"batch (by {apart:.2g} of their size, between a batch and its halves), so that "
            f"results would depend on the number of ranks and on evaluation.batch; use a layer that"
            f" treats each item alone, or nn.BatchNorm with running statistics (track_running_stats"
            f" = True), whose batches are those of all ranks"
        )


def _in_halves(network: nn.Module, evaluate: Evaluate, items: int, only: str = "") -> Record:
    """The second half first: a cache filled by it is another one than that of the whole batch."""
    middle = items // 2
    late = recorded(network, evaluate, slice(middle, items), only)
    return recorded(network, evaluate, slice(0, middle), only).followed_by(late)


def _shown(content: Any) -> str:
    return content if isinstance(content, str) and len(content) < 40 else "one value"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
