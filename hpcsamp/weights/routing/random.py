"""Random tensors that a module creates, and tensors that it fills with random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from hpcsamp.weights.routing.forms import SingleSample
from hpcsamp.weights.routing.masksembles import unmasked
from hpcsamp.weights.routing.now import Now, Numbers, Route
from hpcsamp.weights.routing.numbers import Exponential, Normal, Permutation, Uniform, Whole

#: Arguments with which a call is not routed; observation then checks its effect.
OTHER = ("generator", "out", "names")
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _drawn(now: Now, name: str, shape: Sequence[int], numbers: Numbers, device: Any) -> Any:
    found = now.draw(name, tuple(shape), numbers)
    where = torch.get_default_device() if device is None else torch.device(device)
    return found if where.type == now.device.type else found.to(where)


def _other(named: dict[str, Any]) -> bool:
    return any(named.get(name) is not None for name in OTHER) or bool(named.get("requires_grad"))


# New tensors ---------------------------------------------------------------------------------


def _made(name: str, numbers: Callable[[torch.dtype], Numbers]) -> Route:
    """``rand(*size)`` and similar functions."""

    def route(now: Now, *size: Any, dtype: Any = None, device: Any = None, **named: Any) -> Any:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        sizes = named.pop("size", size)
        if _other(named) or dtype not in KINDS:
            return NotImplemented
        if len(sizes) == 1 and not isinstance(sizes[0], int):
            (sizes,) = sizes
        return _drawn(now, name, sizes, numbers(dtype), device)

    return route


def _like(name: str, numbers: Callable[[torch.dtype], Numbers]) -> Route:
    """``rand_like(x)`` and similar functions."""

    def route(now: Now, input: Any, *, dtype: Any = None, device: Any = None, **named: Any) -> Any:
        dtype = input.dtype if dtype is None else dtype
        if _other(named) or dtype not in KINDS:
            return NotImplemented
        return _drawn(now, name, input.shape, numbers(dtype), device or input.device)

    return route


def randint(now: Now, *args: Any, dtype: Any = None, device: Any = None, **named: Any) -> Any:
    """``randint(high, size)`` or ``randint(low, high, size)``."""
    if _other(named):
        return NotImplemented
    size = named.pop("size", None)
    bounds = [named.pop(n) for n in ("low", "high") if n in named]
    args = (*args, *bounds, *([] if size is None else [size]))
    *bounds, size = args
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return _drawn(now, "randint", size, Whole(dtype or torch.int64, int(low), int(high)), device)


def randint_like(
    now: Now, input: Any, *bounds: Any, dtype: Any = None, device: Any = None, **named: Any
) -> Any:
    """``randint_like(x, high)`` or ``randint_like(x, low, high)``."""
    if _other(named):
        return NotImplemented
    bounds = (*bounds, *[named[n] for n in ("low", "high") if n in named])
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    numbers = Whole(dtype or input.dtype, int(low), int(high))
    return _drawn(now, "randint_like", input.shape, numbers, device or input.device)


def randperm(now: Now, n: int, *, dtype: Any = None, device: Any = None, **named: Any) -> Any:
    """A permutation, the same for all items."""
    if _other(named):
        return NotImplemented
    return _drawn(now, "randperm", (n,), Permutation(dtype or torch.int64), device)


def normal(
    now: Now, mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, dtype: Any = None,
    device: Any = None, **named: Any,
) -> Any:  # fmt: skip
    """``normal(mean, std)`` of tensors or numbers."""
    if _other(named):
        return NotImplemented
    like = [t for t in (mean, std) if hasattr(t, "shape")]
    if size is None:
        if not like:
            return NotImplemented
        shape = torch.broadcast_shapes(*[tuple(t.shape) for t in like])
        dtype, device = like[0].dtype, like[0].device
    else:
        shape, dtype = tuple(size), dtype or torch.get_default_dtype()
    if dtype not in KINDS:
        return NotImplemented
    return _drawn(now, "normal", shape, Normal(dtype), device) * std + mean


def bernoulli(now: Now, input: Any, p: Any = None, **named: Any) -> Any:
    """1 with the probability given by ``input`` (or ``p``), else 0."""
    if _other(named):
        return NotImplemented
    chance = input if p is None else p
    return (_chances(now, "bernoulli", input) < chance).to(input.dtype)


def _chances(now: Now, name: str, like: Any) -> Any:
    """Uniform numbers; with Monte Carlo dropout, one number for each unit."""
    now.draws.mask()
    masks = now.place.masks
    if masks is not None and masks.fixed is not None:
        raise unmasked(name)
    kind = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    shared = masks is not None and masks.shared and len(like.shape) > 0
    found = now.draw(name, like.shape, Uniform(kind), shared=shared)
    return found if like.device.type == now.device.type else found.to(like.device)


def multinomial(
    now: Now, input: Any, num_samples: int, replacement: bool = False, **named: Any
) -> Any:
    """Indices into the last axis, drawn by their weights."""
    if _other(named) or input.dtype not in KINDS:
        return NotImplemented
    wide = torch.float64
    weights = input.to(wide)
    if replacement:
        u = _drawn(
            now, "multinomial", (*input.shape[:-1], num_samples), Uniform(wide), input.device
        )
        ends = weights.cumsum(-1)
        at = u * ends[..., -1:]
        return (at[..., None] >= ends[..., None, :]).sum(-1).clamp(max=input.shape[-1] - 1)
    # the first of exponential clocks with these rates
    clocks = _drawn(now, "multinomial", input.shape, Exponential(wide), input.device)
    return (clocks / weights).argsort(-1)[..., :num_samples]


# In place ------------------------------------------------------------------------------------


def _into(now: Now, target: Any, values: Any) -> Any:
    """Write values into a tensor, if it has room for those of all samples.

    If it has no room, the values are only returned, because callers usually continue with the
    result of such a method; the tensor itself becomes unusable, so a pass that reads it is rejected
    when the strategy is tried.
    """
    if not isinstance(target, Tensor):
        return values.to(target.dtype)
    room = isinstance(now.form, SingleSample) or is_batchedtensor(target)
    if room or (isinstance(values, Tensor) and values.shape == target.shape
                and not is_batchedtensor(values)):  # fmt: skip
        return target.copy_(values)
    if target.is_floating_point():
        target.fill_(torch.nan)
    return values.to(target.dtype)


def bernoulli_(now: Now, target: Any, p: Any = 0.5, **named: Any) -> Any:
    """1 with probability ``p``, else 0."""
    if _other(named):
        return NotImplemented
    return _into(now, target, (_chances(now, "bernoulli_", target) < p).to(target.dtype))


def normal_(now: Now, target: Any, mean: float = 0.0, std: float = 1.0, **named: Any) -> Any:
    """Normal numbers."""
    if _other(named) or target.dtype not in KINDS:
        return NotImplemented
    z = _drawn(now, "normal_", target.shape, Normal(target.dtype), target.device)
    return _into(now, target, z * std + mean)


def uniform_(now: Now, target: Any, *bounds: float, **named: Any) -> Any:
    """Fill a tensor with random numbers that are uniform between two bounds."""
    if _other(named) or target.dtype not in KINDS:
        return NotImplemented
    low = named.get("from", named.get("a", bounds[0] if bounds else 0.0))
    high = named.get("to", named.get("b", bounds[1] if len(bounds) > 1 else 1.0))
    numbers = Uniform(target.dtype, float(low), float(high))
    return _into(now, target, _drawn(now, "uniform_", target.shape, numbers, target.device))


def exponential_(now: Now, target: Any, lambd: float = 1.0, **named: Any) -> Any:
    """Fill a tensor with exponentially distributed random numbers of rate ``lambd``."""
    if _other(named) or target.dtype not in KINDS:
        return NotImplemented
    numbers = Exponential(target.dtype)
    drawn = _drawn(now, "exponential_", target.shape, numbers, target.device)
    return _into(now, target, drawn / lambd)


def log_normal_(now: Now, target: Any, mean: float = 1.0, std: float = 2.0, **named: Any) -> Any:
    """Fill a tensor with log-normal random numbers."""
    if _other(named) or target.dtype not in KINDS:
        return NotImplemented
    z = _drawn(now, "log_normal_", target.shape, Normal(target.dtype), target.device)
    return _into(now, target, (z * std + mean).exp())


def random_(now: Now, target: Any, *bounds: int, **named: Any) -> Any:
    """Fill a tensor with random integers from ``low`` (default 0) to ``high - 1``."""
    bounds = (*bounds, *[named[n] for n in ("from", "to") if n in named])
    if _other(named) or not bounds:
        return NotImplemented
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    numbers = Whole(torch.int64, int(low), int(high))
    drawn = _drawn(now, "random_", target.shape, numbers, target.device)
    return _into(now, target, drawn.to(target.dtype))


ROUTES: dict[Any, Route] = {
    torch.rand: _made("rand", Uniform),
    torch.randn: _made("randn", Normal),
    torch.rand_like: _like("rand_like", Uniform),
    torch.randn_like: _like("randn_like", Normal),
    torch.randint: randint,
    torch.randint_like: randint_like,
    torch.randperm: randperm,
    torch.normal: normal,
    torch.bernoulli: bernoulli,
    torch.multinomial: multinomial,
    Tensor.bernoulli: bernoulli,
    Tensor.multinomial: multinomial,
    Tensor.bernoulli_: bernoulli_,
    Tensor.normal_: normal_,
    Tensor.uniform_: uniform_,
    Tensor.exponential_: exponential_,
    Tensor.log_normal_: log_normal_,
    Tensor.random_: random_,
    torch.nn.init.normal_: lambda now, tensor, *args, **named: normal_(now, tensor, *args, **named),
    torch.nn.init.uniform_: lambda now, tensor, *args, **named: uniform_(
        now, tensor, *args, **named
    ),
}
