"""A plain module as a function of one flat vector of all its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hpcsamp.errors import UsageError
from hpcsamp.methods.adapters import check_parameters, constants_of, deterministic_of


class FlatModule:
    """Evaluates a module with weights that are views of a flat vector.

    Parameters
    ----------
    module
        Any ``nn.Module``.
    autocast
        Type in which it is evaluated where torch deems it safe; None for that of the weights.

    Raises
    ------
    UsageError
        For a module with nothing to learn.
    """

    def __init__(self, module: nn.Module, autocast: torch.dtype | None = None) -> None:
        check_parameters(module)
        self.module = module
        self.autocast = autocast
        own = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not own:
            raise UsageError(f"{type(module).__name__} has no weights to learn")
        self.names = list(own)
        self.shapes = [p.shape for p in own.values()]
        self.sizes = [p.numel() for p in own.values()]
        #: Where the weights lie that have a prior and are drawn, and where those that have not.
        self.random: list[slice] = []
        self.deterministic: list[slice] = []
        marked, stop = deterministic_of(module), 0
        for name, size in zip(self.names, self.sizes, strict=True):
            start, stop = stop, stop + size
            spans = self.deterministic if name in marked else self.random
            if spans and spans[-1].stop == start:
                start = spans.pop().start
            spans.append(slice(start, stop))

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(self.sizes)

    def initial(self) -> Tensor:
        """``(n,)`` the module's present weights."""
        own = dict(self.module.named_parameters())
        return torch.cat([own[name].detach().flatten() for name in self.names])

    def call(
        self, flat: Tensor, x: Tensor, constants: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Outputs with ``(n,)`` weights. Works under ``torch.func.vmap``.

        ``constants``: other frozen parameters and buffers than the module's own.
        """
        weights = dict(self.named(flat)) | dict(constants or {})
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            y: Tensor = functional_call(self.module, weights, (x,))
        return y

    def named(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The views of ``(..., n)`` weights in the shapes and under the names of their layers."""
        parts = flat.split(self.sizes, dim=-1)
        for name, part, shape in zip(self.names, parts, self.shapes, strict=True):
            yield name, part.view((*flat.shape[:-1], *shape))

    def link(self, flat: Tensor) -> None:
        """Let the module's own parameters show ``(n,)`` weights, sharing their memory."""
        owned = dict(self.module.named_parameters())
        for name, view in self.named(flat.detach()):
            owned[name].data = view

    def constants(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers by name, not copied."""
        return constants_of(self.module, self.names)
