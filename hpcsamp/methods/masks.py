"""The places where Monte Carlo dropout leaves units out, found by a pass in training mode.

They are the layers that drop something in training: dropout of any kind, wherever it is called,
attention and recurrent dropout, stochastic depth. In a module without any, they are the inputs of
each ``nn.Linear`` but the first, in the order of the module.
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

#: Of the inputs of layers in a module that drops nothing by itself, unless another is given.
RATE = 0.1


class Places:
    """The layers of a module that mask something.

    Parameters
    ----------
    put
        Of the module.
    """

    def __init__(self, put: Put) -> None:
        self._put, self._module = put, put.module
        self._layers: list[nn.Module] | None = None
        self._on = False

    def find(self, call: Callable[[Any], Tensor], x: Any, place: Place) -> None:
        """Find the layers by a pass with a few items, unless they are known.

        Parameters
        ----------
        call
            Evaluates the module.
        x
            ``(B, ...)`` items.
        place
            Of a sample.

        Raises
        ------
        UsageError
            For a module with no place for masks.
        """
        if self._layers is not None:
            return
        place = replace(place, prediction=False)  # the modes are those of training
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
                f"method 'mc_dropout': {of} drops nothing in training, and inputs of linear layers "
                f"that lie in parts on model ranks cannot be dropped in its place: let the network "
                f"drop units (hpcsamp.layers.Dropout; model.dropout of vit, swin and mixer), or "
                f"set parallel.model = 1"
            )
        linear = [m for m in self._module.modules() if isinstance(m, nn.Linear)]
        if len(linear) < 2:
            self._layers = None
            raise UsageError(
                f"method 'mc_dropout': {of} drops nothing in training and "
                f"has {len(linear)} nn.Linear, of which the second and later would have their "
                f"inputs dropped; put nn.Dropout where units are to be dropped"
            )
        for layer in linear[1:]:
            layer.register_forward_pre_hook(self._before)

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Within the block the layers mask, in training and in prediction."""
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
    """Within the block the layers themselves, not what is in them, are in training mode."""
    still = [layer for layer in layers if not layer.training]
    for layer in still:
        layer.training = True
    try:
        yield
    finally:
        for layer in still:
            layer.training = False
