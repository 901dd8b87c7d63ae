"""Operations that broadcast and work element by element: samples are an additional axis."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.folding.sampled import Sampled

_NAMES = """
add sub subtract mul multiply div divide true_divide floor_divide rsub remainder fmod pow
float_power maximum minimum where lerp addcmul addcdiv atan2 hypot logaddexp xlogy
bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift
lt le gt ge eq ne masked_fill logical_and logical_or logical_not
exp expm1 exp2 log log1p log2 log10 sqrt rsqrt square reciprocal neg negative abs sign
sin cos tan tanh sinh cosh sigmoid erf erfc softplus relu relu6 gelu silu elu selu celu
leaky_relu mish hardtanh hardsigmoid hardswish softsign tanhshrink logsigmoid clamp clip
clamp_min clamp_max round floor ceil trunc nan_to_num isnan isfinite to float double half
bfloat16 type_as detach clone contiguous
__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__
__rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __neg__ __pos__ __abs__ __lt__ __le__
__gt__ __ge__ __eq__ __ne__ __and__ __or__ __xor__ __invert__ __lshift__ __rshift__
"""
NAMES = frozenset(_NAMES.split())

_OPERATORS = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div"}


def is_elementwise(function: Any) -> bool:
    """Whether a function of torch works element by element, by its name."""
    name = getattr(function, "__name__", "")
    return name in NAMES or _without_place(name) is not None


def _without_place(name: str) -> str | None:
    """Name of the out-of-place variant of a function that writes to its first argument."""
    if name in _OPERATORS:
        return _OPERATORS[name]
    own = name.removesuffix("_")
    return own if own != name and own in NAMES and not name.startswith("_") else None


def elementwise(fold: Fold, function: Any, args: Any, kwargs: Any) -> Any:
    """Apply the function to all samples at once, with axes of length 1 inserted where necessary."""
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, (Tensor, Sampled))]
    axes = max(t.dim() for t in tensors)
    axis: int | None = None

    def aligned(t: Any) -> Any:
        nonlocal axis
        if type(t) is Sampled:
            value, short = t.value, axes - t.dim()
        elif isinstance(t, Tensor) and t.dim():
            rows = fold.rows(t)
            if rows is None:
                return t
            value, short = fold.out(t, rows), axes - t.dim()
            if axis is None:
                axis = rows.axis + short
        else:
            return t
        return value if not short else value[(slice(None), *(None,) * short)]

    args = [aligned(t) for t in args]
    kwargs = {name: aligned(t) for name, t in kwargs.items()}
    other = _without_place(getattr(function, "__name__", ""))
    if other is not None and axis is not None:  # the tensor has no room for the samples
        function = getattr(Tensor, other)
    y = function(*args, **kwargs)
    return Sampled(y, fold) if axis is None else fold.into(y, axis)


def scaled(fold: Fold, y: Tensor, weight: Any, bias: Any) -> Tensor:
    """Return ``y * weight + bias`` in the type of ``y``; either may be None."""
    z: Any = y
    if weight is not None:
        z = elementwise(fold, Tensor.mul, (z, weight), {})
    if bias is not None:
        z = elementwise(fold, Tensor.add, (z, bias), {})
    found: Tensor = z.to(y.dtype)
    return found
