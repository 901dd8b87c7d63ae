"""The gradients of all parameters in one flat tensor, for one exchange per step."""

from __future__ import annotations

from collections.abc import Iterable

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

    Attributes
    ----------
    flat
        The gradients of all parameters.
    places
        Slice of ``flat`` for each parameter.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        first, places, size = self.parameters[0], list[slice](), 0
        for p in self.parameters:
            size += size % 2 if p.is_complex() else 0
            places.append(slice(size, size + parts_of(p).numel()))
            size = places[-1].stop
        self.places = places
        self.flat = torch.zeros(size, dtype=first.dtype.to_real(), device=first.device)
        self._views = [
            (
                complex_of(self.flat[place].view(-1, 2)) if p.is_complex() else self.flat[place]
            ).view_as(p)
            for place, p in zip(places, self.parameters, strict=True)
        ]
        self._view_of = {id(p): v for p, v in zip(self.parameters, self._views, strict=True)}
        self.zero()

    def is_view(self, p: nn.Parameter) -> bool:
        """Whether the gradient of a parameter is still a view of the flat tensor."""
        return p.grad is self._view_of[id(p)]

    def zero(self) -> None:
        """Set the gradient to zero and make each ``.grad`` a view of it."""
        self.flat.zero_()
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
        for p, view in zip(self.parameters, self._views, strict=True):
            if p.grad is None:
                view.zero_()
                p.grad = view
            elif p.grad is not view and p.grad.data_ptr() != view.data_ptr():
                view.copy_(p.grad.detach())
                p.grad = view
        return self.flat

    @property
    def is_gone(self) -> bool:
        """Whether all gradients were set to None."""
        return all(p.grad is None for p in self.parameters)

    @property
    def state(self) -> tuple[int, bool]:
        """Return a value that changes when other code writes to a gradient or replaces it."""
        views = zip(self.parameters, self._views, strict=True)
        return self.flat._version, all(p.grad is view for p, view in views)


def factor(norm: Tensor, largest: float) -> Tensor:
    """Return the factor that limits the norm of a gradient."""
    return (largest / (norm + 1e-6)).clamp(max=1.0)
