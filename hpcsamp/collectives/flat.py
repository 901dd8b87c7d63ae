"""The gradients of all parameters in one flat tensor, for one exchange per step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from hpcsamp.weights.complex_parts import complex_of, parts_of


class FlatGradient:
    """The gradients of some parameters as views of one contiguous tensor.

    Autograd adds to existing ``.grad`` tensors in place, so the exchange needs no copy as long as
    they are not replaced. The flat tensor holds the real and imaginary parts of complex parameters;
    torch requires that they begin at even positions, so a 0 is inserted if necessary.

    Parameters
    ----------
    parameters
        Parameters of one type and device; complex ones of the same precision.
    kept
        Whether the memory is kept between steps. If not, a zero gradient takes no memory and is
        ``None``, and gradients that a backward pass has put in order into one tensor
        (:func:`in_one`) become the flat tensor.

    Attributes
    ----------
    places
        Slice of ``flat`` for each parameter.
    dtype, device
        Those of the gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], kept: bool = True) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        first, places, size = self.parameters[0], list[slice](), 0
        for p in self.parameters:
            size += size % 2 if p.is_complex() else 0
            places.append(slice(size, size + parts_of(p).numel()))
            size = places[-1].stop
        self.places, self._size, self._kept = places, size, kept
        self.dtype, self.device = first.dtype.to_real(), first.device
        self._flat: Tensor | None = None
        self._views: list[Tensor] = []
        self.zero()

    @property
    def flat(self) -> Tensor:
        """The gradients of all parameters."""
        if self._flat is None:
            self._hold(torch.zeros(self._size, dtype=self.dtype, device=self.device))
        assert self._flat is not None
        return self._flat

    def _hold(self, flat: Tensor) -> None:
        self._flat = flat
        self._views = [
            (complex_of(flat[place].view(-1, 2)) if p.is_complex() else flat[place]).view_as(p)
            for place, p in zip(self.places, self.parameters, strict=True)
        ]

    def is_view(self, p: nn.Parameter) -> bool:
        """Whether the gradient of a parameter is still a view of the flat tensor."""
        return any(p.grad is view for view in self._views)

    def zero(self) -> None:
        """Set the gradient to zero; if its memory is kept, each ``.grad`` is a view of it."""
        if self._kept:
            self.flat.zero_()
        else:
            self._flat, self._views = None, []
        for p, view in zip_longest(self.parameters, self._views):
            p.grad = view

    def take(self) -> Tensor:
        """Set the gradient to zero, and return what it was."""
        found = self.collect()
        if self._kept:
            found = found.clone()
        self.zero()
        return found

    def put_back(self, taken: Tensor) -> None:
        """Set the gradient to what :meth:`take` returned."""
        if self._kept:
            self.flat.copy_(taken)
        else:
            self._hold(taken)
        for p, view in zip(self.parameters, self._views, strict=True):
            p.grad = view

    def row_norms(self) -> Tensor:
        """Return the ``(s,)`` norms of the members' gradients; members are the first axis."""
        rows = torch.cat([view.flatten(1) for view in self._views], dim=1)
        return torch.linalg.vector_norm(rows, dim=1)

    def scale_rows(self, factors: Tensor) -> None:
        """Multiply the gradient of each member by its factor, ``(s,)``."""
        for view in self._views:
            view.mul_(factors.view(-1, *[1] * (view.dim() - 1)))

    def collect(self) -> Tensor:
        """Return the flat gradient, after copying gradients that were replaced into it."""
        if self._flat is None:
            found = in_one([p.grad for p in self.parameters])
            if found is not None and len(found) == self._size:
                self.put_back(found)
                return found
        flat = self.flat
        for p, view in zip(self.parameters, self._views, strict=True):
            if p.grad is None:
                view.zero_()
                p.grad = view
            elif p.grad is not view and p.grad.data_ptr() != view.data_ptr():
                view.copy_(p.grad.detach())
                p.grad = view
        return flat

    @property
    def is_gone(self) -> bool:
        """Whether all gradients were set to None."""
        return all(p.grad is None for p in self.parameters)

    @property
    def state(self) -> tuple[int, bool]:
        """Return a value that changes when other code writes to a gradient or replaces it."""
        if self._flat is None:
            return -1, self.is_gone
        views = zip(self.parameters, self._views, strict=True)
        return self._flat._version, all(p.grad is view for p, view in views)


def in_one(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """Return the tensor ``(n,)`` that gradients ``(m,)`` fill one after the other; None otherwise.

    Its elements are theirs: nothing is copied.
    """
    first, size = gradients[0], 0
    for g in gradients:
        if first is None or g is None or g.dim() != 1 or g.is_complex() or not g.is_contiguous():
            return None
        if g.dtype != first.dtype or g.device != first.device:
            return None
        if g.data_ptr() != first.data_ptr() + size * first.element_size():
            return None
        if g.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        size += len(g)
    return None if first is None else first.detach().as_strided((size,), (1,))


def factor(norm: Tensor, largest: float) -> Tensor:
    """Return the factor that limits the norm of a gradient."""
    return (largest / (norm + 1e-6)).clamp(max=1.0)
