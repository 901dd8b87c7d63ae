"""Find the layers in which Monte Carlo dropout drops units, in a trial pass in training mode.

These are the layers that drop anything in training: dropout of any kind, wherever it is called,
attention and recurrent dropout, stochastic depth. In a module without any, masks are applied to the
inputs of each ``nn.Linear`` but the first, in registration order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.weights import Place, Put
from hpcsamp.weights.recomputation import standing
from hpcsamp.weights.routing import probed

#: Default rate of masks on the inputs of layers, in a module without dropout of its own.
RATE = 0.1


class MaskedLayers:
    """The layers of a module that apply masks.

    Parameters
    ----------
    put
        The :class:`~hpcsamp.weights.put.Put` of the module.
    """

    def __init__(self, put: Put) -> None:
        self._put, self._module = put, put.module
        self._layers: list[nn.Module] | None = None
        self._on = False

    def find(self, call: Callable[[Any], Tensor], x: Any, place: Place) -> None:
        """Find the layers in a trial pass with a few items, unless they are already known.

        Parameters
        ----------
        call
            Evaluates the module.
        x
            ``(B, ...)`` items.
        place
            The place of a sample.

        Raises
        ------
        UsageError
            If no layer of the module can apply masks.
        """
        if self._layers is not None:
            return
        place = replace(place, prediction=False)  # with each submodule in its mode of training
        with _training(list(self._module.modules())):
            found = probed(self._module, call, place, x, self._put).masking
        parts = dict(self._module.named_modules())
        self._layers = [parts[name] for name in sorted(found)]
        if not found:
            self._take_inputs()

    def _take_inputs(self) -> None:
        of = type(self._module).__name__
        if self._put.parted:
            self._layers = None
            raise UsageError(
                f"method 'mc_dropout': {of} has no dropout in training, and inputs of linear "
                f"layers that are split over model ranks cannot be masked instead: add dropout to "
                f"the network (hpcsamp.layers.Dropout; model.dropout of vit, swin and mixer), or "
                f"set parallel.model = 1"
            )
        linear = [m for m in self._module.modules() if isinstance(m, nn.Linear)]
        if len(linear) < 2:
            self._layers = None
            raise UsageError(
                f"method 'mc_dropout': {of} has no dropout in training. MC dropout would then "
                f"mask the inputs of every nn.Linear after the first, but there "
                f"{'is only 1' if len(linear) == 1 else 'are none'}: add nn.Dropout where units "
                f"should be dropped"
            )
        for layer in linear[1:]:
            layer.register_forward_pre_hook(self._before)

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Context in which the layers apply masks, in training and in prediction."""
        with standing(self._masking):
            yield

    @contextmanager
    def _masking(self) -> Iterator[None]:
        before, self._on = self._on, True
        try:
            with _training(self._layers or []):
                yield
        finally:
            self._on = before

    def _before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (F.dropout(inputs[0], RATE), *inputs[1:]) if self._on else None


@contextmanager
def _training(layers: list[nn.Module]) -> Iterator[None]:
    """Context in which these layers, but not their submodules, are in training mode."""
    still = [layer for layer in layers if not layer.training]
    for layer in still:
        layer.training = True
    try:
        yield
    finally:
        for layer in still:
            layer.training = False
