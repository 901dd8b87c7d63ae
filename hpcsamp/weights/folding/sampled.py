"""A parameter with ``k`` values that behaves like a single tensor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from hpcsamp.weights.folding.fold import Fold
from hpcsamp.weights.strategies.chunk import NotPossibleError

_ATTRIBUTES = """
dtype device requires_grad is_cuda is_cpu is_mps is_xpu is_meta is_sparse is_nested is_quantized
is_leaf layout grad_fn
"""
_QUESTIONS = "is_floating_point is_complex get_device element_size is_signed is_inference"
_NUMBERS = "item tolist numpy __bool__ __float__ __int__ __index__"
_OPERATORS = """
add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul neg
pos abs lt le gt ge eq ne and or xor invert lshift rshift getitem
"""
#: Attributes that are the same for one sample and for all samples.
ATTRIBUTES = frozenset(_ATTRIBUTES.split())
#: Methods whose result is not a tensor and is the same for every sample.
QUESTIONS = frozenset(_QUESTIONS.split())
#: Methods that need the values themselves.
NUMBERS = frozenset(_NUMBERS.split())


class Sampled:
    """``k`` values in place of one tensor.

    It has the shape, type and methods of one of the values. torch's functions applied to it compute
    the result for each sample, see :mod:`hpcsamp.weights.folding.dispatch`.

    Parameters
    ----------
    value
        ``(k, *shape)``.
    fold
        Fold of the pass.

    Attributes
    ----------
    value
        ``(k, *shape)``.
    shape
        Shape of one sample.
    """

    __slots__ = ("__weakref__", "fold", "shape", "value")
    __hash__ = object.__hash__

    def __init__(self, value: Tensor, fold: Fold) -> None:
        self.value, self.fold = value, fold
        self.shape = value.shape[1:]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Dispatch to the fold of the pass."""
        fold = _fold_of(args) or _fold_of(tuple((kwargs or {}).values()))
        assert fold is not None
        return fold.dispatch(fold, func, args, kwargs or {})

    def dim(self) -> int:
        """Number of axes of one sample."""
        return len(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes of one sample."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Shape of one sample, or the length of one of its axes."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Number of elements of one sample."""
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind(0))

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            return getattr(self.value, name)
        if name in NUMBERS:
            raise NotPossibleError(f"Tensor.{name} of a weight, which has one value per sample")
        found = getattr(Tensor, name)  # raises AttributeError as a tensor would
        if name in QUESTIONS:
            return partial(found, self.value)
        if callable(found):
            return partial(self._of, found)
        return self._of(lambda t: getattr(t, name))

    def __bool__(self) -> bool:
        raise NotPossibleError("the truth value of a weight, which has one value per sample")

    def _of(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.fold.dispatch(self.fold, function, (self, *args), kwargs)

    def __repr__(self) -> str:
        return f"Sampled({len(self.value)} x {tuple(self.shape)})"


def _operator(name: str) -> Any:
    function = getattr(Tensor, name)

    def operator(self: Sampled, *args: Any) -> Any:
        return self._of(function, *args)

    return operator


for _name in _OPERATORS.split():
    setattr(Sampled, f"__{_name}__", _operator(f"__{_name}__"))


def _fold_of(args: Any) -> Fold | None:
    """Fold of the first sampled value among the arguments."""
    for value in args:
        if type(value) is Sampled:
            return value.fold
        if isinstance(value, (list, tuple)):
            found = _fold_of(value)
            if found is not None:
                return found
    return None
