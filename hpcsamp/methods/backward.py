"""Check that the backward pass of a module treats the items of a batch independently.

Gradients of ranks are summed. The sum is the gradient of the whole batch only if the backward pass
is linear in the incoming gradient, draws no random numbers, and treats each item separately. An
``autograd.Function`` or a hook that clips or normalises gradients violates this. The check compares
gradients: a multiple of the outputs must have the same multiple of the gradients, and the gradients
of a batch must be the sum of those of its halves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.failing import DependsError
from hpcsamp.methods.graphs import leaves
from hpcsamp.methods.kept import called
from hpcsamp.methods.recording import Evaluate, bound, difference, hooked
from hpcsamp.weights.complex_parts import parts_of

#: Factors of the gradient that reveal clipping at any size; the smaller one is for narrow types.
SCALES = (2.0**20, 2.0**4)


Key = tuple[int, tuple[int, ...]]
"""Address and shape of a tensor, which identify a leaf that is created again in each pass."""


class _Gradients(NamedTuple):
    """Gradients of one pass.

    ``parameters``: gradients with respect to the trained tensors, by key. ``calls``: the calls of
    submodules in the order in which they ended, with the gradients with respect to those inputs and
    outputs whose first axis is that of the items.
    """

    parameters: dict[Key, Tensor]
    calls: list[tuple[str, list[Tensor], list[Tensor]]]


def check_hooks(network: nn.Module, own: Sequence[nn.Parameter]) -> None:
    """Refuse hooks on the gradients of replaced parameters, because they would not be called.

    Raises
    ------
    UsageError
        If there is such a hook; the message names the parameter.
    """
    ids = {id(p) for p in own}
    for name, p in network.named_parameters():
        if id(p) in ids and (p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)):
            raise UsageError(
                f"{type(network).__name__} has a hook on the gradient of its parameter {name}, "
                f"which would not be called, because samples of the weights are evaluated instead; "
                f"freeze a parameter by requires_grad_(False), clip by optimizer.clip, and apply a "
                f"mask in the forward pass"
            )


def check_unregistered(
    network: nn.Module, outputs: Sequence[Tensor], known: Sequence[Tensor]
) -> None:
    """Refuse tensors that require gradients but are not parameters of the module.

    Parameters
    ----------
    outputs
        Outputs of two passes: a leaf that both depend on lives longer than a pass.
    known
        Keys of the trained tensors and of the module's own parameters.

    Raises
    ------
    UsageError
        If there is such a tensor; the message names the attribute that holds it, if any.
    """
    ids = {id(p) for p in known}
    first, second = ({id(t): t for t in leaves(y) if t.requires_grad} for y in outputs)
    for key, leaf in first.items():
        if key in second and key not in ids:
            raise UsageError(
                f"{type(network).__name__} uses {_where(network, leaf)}, a tensor of shape "
                f"{tuple(leaf.shape)} that requires gradients but is not one of its parameters, so "
                f"that it would be neither trained nor saved; make it an nn.Parameter, and put "
                f"layers of a list into an nn.ModuleList (or requires_grad_(False))"
            )


def lasting(outputs: Sequence[Tensor]) -> set[Key]:
    """Keys of the leaves that require gradients and occur in the graphs of both passes."""
    first, second = ({_key(t) for t in leaves(y) if t.requires_grad} for y in outputs)
    return first & second


def _key(leaf: Tensor) -> Key:
    return leaf.data_ptr(), tuple(leaf.shape)


def _where(network: nn.Module, leaf: Tensor) -> str:
    for name, part in network.named_modules():
        for key, value in vars(part).items():
            full = f"{name}.{key}" if name else key
            inner = list(value.values()) if isinstance(value, dict) else value
            for one in inner if isinstance(inner, (list, tuple)) else [inner]:
                own = one.parameters() if isinstance(one, nn.Module) else [one]
                if key not in ("_parameters", "_modules") and any(p is leaf for p in own):
                    return full
    return "a tensor from outside the module"


def check_gradients(
    network: nn.Module, evaluate: Evaluate, items: int, trained: Container[Key], tolerance: float
) -> None:
    """Refuse a backward pass whose result depends on how a batch is split over ranks or parts.

    Parameters
    ----------
    network, evaluate
        The module, and a function that evaluates it with the same draws each time, with gradients.
    items
        Number of items, an even number.
    trained
        Keys of the trainable tensors, see :func:`lasting`.
    tolerance
        Relative difference that is attributed to rounding.

    Raises
    ------
    UsageError
        If the result depends on the split; the message names the submodule.
    """
    everything, middle = slice(0, items), items // 2

    def whole(scale: float = 1.0, inner: bool = False) -> _Gradients:
        return _gradients(network, evaluate, everything, trained, scale, inner)

    def half(rows: slice, inner: bool = False) -> _Gradients:
        return _gradients(network, evaluate, rows, trained, 1.0, inner)

    late, early = slice(middle, items), slice(0, middle)

    once = whole()
    if not once.parameters:
        return
    more = None
    for scale in SCALES:
        del more
        more = whole(scale)
        if _finite(more) or not _finite(once):
            break
    else:
        return  # numbers of this type overflow at each of the scales
    apart = _apart(once, more)
    del more  # for a large network, there is no memory for further gradients
    if apart > tolerance:
        name = _culprit(whole(inner=True), whole(scale, inner=True), tolerance)
        raise DependsError(
            f"{called(network, name)} has a backward pass that is not linear in the gradient of "
            f"its outputs, or that draws random numbers (gradients of outputs and of a multiple of "
            f"them differ by {apart:.2g} of their size), so that results would depend on the "
            f"number of ranks; remove this from the backward pass, and clip by optimizer.clip",
            apart,
        )
    apart = _apart_from_sum(once, half, (late, early))
    if math.isnan(apart):  # with NaN or inf, compare the numbers one by one
        apart = _apart(whole(), _together(half(early), half(late)))
    if apart > tolerance:
        halves = _together(*(half(rows, inner=True) for rows in (early, late)))
        name = _culprit(whole(inner=True), halves, tolerance)
        raise DependsError(
            f"{called(network, name)} lets the items of a batch influence each other's gradients "
            f"(by {apart:.2g} of their size, between a batch and its halves), so that results would"
            f" depend on the number of ranks; treat each item separately in its backward pass",
            apart,
        )


def _gradients(
    network: nn.Module,
    evaluate: Evaluate,
    rows: slice,
    trained: Container[Key],
    scale: float,
    inner: bool,
) -> _Gradients:
    """Gradients of ``scale`` times a weighted sum of the outputs, divided by ``scale``."""
    calls: list[tuple[str, list[Tensor], list[Tensor]]] = []
    stack: list[list[Tensor]] = []
    count = rows.stop - rows.start

    def begin(_: str, inputs: Any) -> None:
        stack.append(_with_items(inputs, count))

    def end(name: str, output: Any) -> None:
        calls.append((name, stack.pop(), _with_items(output, count)))

    with hooked(network, begin, end, only="" if inner else " "):
        y = evaluate(rows)
    wanted = [t for t in leaves(y) if t.requires_grad and _key(t) in trained]
    if not wanted:
        return _Gradients({}, [])
    flat = parts_of(y).flatten(1)
    numbers = torch.arange(rows.start * flat.shape[1], rows.stop * flat.shape[1], device=y.device)
    total = (flat * numbers.cos().view(flat.shape).to(flat.dtype)).sum() * scale
    within = [t for _, ins, outs in calls for t in (*ins, *outs)]
    found = list(
        torch.autograd.grad(total, [*wanted, *within], allow_unused=True, materialize_grads=True)
    )
    del y, flat, total  # and their graph
    for i, g in enumerate(found):  # so that no two copies of a large gradient exist
        g = parts_of(g).detach()
        found[i] = g if scale == 1 else g / scale
    ends = iter(found[len(wanted) :])
    return _Gradients(
        {_key(t): g for t, g in zip(wanted, found, strict=False)},
        [(name, [next(ends) for _ in i], [next(ends) for _ in o]) for name, i, o in calls],
    )


def _with_items(value: Any, items: int) -> list[Tensor]:
    """Tensors with a gradient whose first axis is that of the batch."""
    if isinstance(value, Tensor):
        ok = value.requires_grad and value.dim() and not value.is_nested and len(value) == items
        return [value] if ok else []
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(parts, (list, tuple, type({}.values()))):
        return []
    return [t for part in parts for t in _with_items(part, items)]


def _together(early: _Gradients, late: _Gradients) -> _Gradients:
    """Combine the gradients of a batch's halves into those of the batch, and free the former."""
    calls = [
        (name, [torch.cat(p) for p in zip(a, c, strict=False)],
         [torch.cat(p) for p in zip(b, d, strict=False)])
        for (name, a, b), (_, c, d) in zip(early.calls, late.calls, strict=False)
    ]  # fmt: skip
    both = early.parameters
    for key in list(late.parameters):
        gradient = late.parameters.pop(key)
        both[key] = both.pop(key) + gradient if key in both else gradient
    return _Gradients(both, calls)


def _apart(one: _Gradients, other: _Gradients) -> float:
    """Largest relative difference of gradients; a missing gradient counts as 0."""
    a, b = dict(one.parameters), dict(other.parameters)
    for key in a.keys() | b.keys():
        known = a.get(key, b.get(key))
        assert known is not None
        a.setdefault(key, torch.zeros_like(known))
        b.setdefault(key, torch.zeros_like(known))
    return difference(list(a.values()), [b[key] for key in a])


def _apart_from_sum(
    once: _Gradients, part: Callable[[slice], _Gradients], parts: Sequence[slice]
) -> float:
    """Largest difference between gradients and the sum of the gradients of some parts.

    The parts are subtracted one after the other, so that no more than two gradients are held; the
    gradients passed are freed. NaN if there are numbers that are not finite.
    """
    left, finite = once.parameters, _finite(once)
    scale = max(bound(g) for g in left.values())
    for rows in parts:
        found = part(rows).parameters
        for key in list(found):
            gradient = found.pop(key)
            left[key] = left.pop(key).sub(gradient) if key in left else gradient.neg()
    apart = max(bound(g) for g in left.values())
    if finite and math.isfinite(apart):
        return apart / max(scale, apart) if apart else 0.0
    return math.nan


def _finite(found: _Gradients) -> bool:
    return all(bool(g.isfinite().all()) for g in found.parameters.values())


def _culprit(one: _Gradients, other: _Gradients, tolerance: float) -> str:
    """Innermost submodule with equal gradients at its outputs and unequal ones at its inputs."""
    pairs = zip(one.calls, other.calls, strict=False)
    for (name, ins, outs), (_, other_ins, other_outs) in pairs:
        agree = difference(outs, other_outs) <= tolerance
        if name and outs and agree and difference(ins, other_ins) > tolerance:
            return name
    return ""
