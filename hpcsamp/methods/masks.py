"""Dropout masks from streams, put into a module from outside.

The module's own dropout layers are kept silent; hooks multiply what passes through them by masks
that were drawn for all layers at once. A mask is a sampled value like a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.streams.places import place_bits, place_keys
from hpcsamp.weights import Put
from hpcsamp.weights.inputs import number_type, signature

CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
MASK = "mask "
"""Masks are values under this name and the number of the passage."""
LEVELS = 1 << 16
"""Rates are multiples of 1 / LEVELS: 16 random bits decide about a unit."""
MOST_SAMPLES = 1 << 16
"""Places of a step: S is less."""
AHEAD = 1 << 18
"""Mask values that are drawn ahead at most, as a step of a small network is soon over."""


@dataclass(frozen=True)
class Call:
    """One passage through a masked layer.

    Attributes
    ----------
    layer
        The layer.
    rate
        Chance of a unit to be dropped.
    rows
        Rows of its first axis per item.
    shape
        What follows the first axis.
    """

    layer: nn.Module
    rate: float
    rows: int
    shape: tuple[int, ...]

    def mask_shape(self, per_item: bool) -> tuple[int, ...]:
        """``(rows, *shape)`` of the mask of an item, or of all items of a sample.

        A sample's mask is that of a sub-network: it has units (channels for ``nn.Dropout2d`` and
        its like, else the last axis) and is the same at every position. An item's mask is torch's:
        every element, or every channel.
        """
        if isinstance(self.layer, CHANNELS):
            shape = (self.shape[0], *[1] * (len(self.shape) - 1))
        elif per_item:
            shape = self.shape
        else:
            shape = (*[1] * (len(self.shape) - 1), self.shape[-1])
        return (self.rows if per_item else 1, *shape)


@dataclass(frozen=True)
class Stream:
    """Which masks.

    Attributes
    ----------
    keys
        One; with masks per item, one for each sample.
    samples
        The samples, in the masks of a sample its number is part of the place.
    step
        Likewise; 0 where draws do not depend on it.
    more
        Whether later steps will want masks of the same stream, so that it pays to draw ahead.
    index
        ``(B,)`` places of the items, with masks per item.
    """

    keys: tuple[int, ...]
    samples: range
    step: int = 0
    more: bool = False
    index: Tensor | None = None


class Masks:
    """The masked places of a module.

    They are its ``nn.Dropout`` layers (also ``Dropout1d`` to ``3d``). In a module without any, they
    are the inputs of each ``nn.Linear`` but the first, in the order of the module.

    Parameters
    ----------
    module
        Any module whose outputs have the batch as their first axis, and whose masked layers see it
        first, too.
    put
        Of the module; the masks become values of it.
    rate
        For all places; None: the layers' own, 0.1 where there are none.
    per_item
        A mask for every item, not one for all items of a sample.

    Raises
    ------
    UsageError
        For a module without such a place, or with alpha dropout.
    """

    def __init__(self, put: Put, rate: float | None, per_item: bool) -> None:
        module = put.module
        _refuse_unreachable(module)
        self.per_item = per_item
        self._put = put
        self._layers: dict[nn.Module, float] = {}
        own = [m for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        if own:
            for dropout in own:
                self._layers[dropout] = float(dropout.p if rate is None else rate)
                dropout.register_forward_hook(self._after)
        else:
            linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
            if len(linear) < 2:
                raise UsageError(
                    f"method 'mc_dropout': {type(module).__name__} has no nn.Dropout layer and "
                    f"{len(linear)} nn.Linear, of which the second and later would have their "
                    f"inputs dropped; put nn.Dropout where units are to be dropped"
                )
            for layer in linear[1:]:
                self._layers[layer] = 0.1 if rate is None else rate
                layer.register_forward_pre_hook(self._before)
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)
        self._plans: dict[Any, tuple[Call, ...]] = {}
        self._ahead: dict[Any, tuple[int, list[dict[str, Tensor]]]] = {}
        self._values: dict[str, Any] = {}  # masks of the sample that is being evaluated, by name
        self._calls: tuple[Call, ...] | None = None  # of the passes that are under way
        self._done = 0
        self._seen: list[Call] | None = None

    def silence(self) -> None:
        """Let the module's own dropout layers pass everything on."""
        for layer in self._layers:
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()

    def of(
        self, call: Callable[[Tensor], Tensor], x: Tensor, stream: Stream
    ) -> tuple[tuple[Call, ...], dict[str, Tensor]]:
        """The passages of a pass, and the masks of each as ``(k, rows, ...)`` values by name.

        Parameters
        ----------
        call
            Evaluates the module.
        x
            ``(B, ...)`` items.
        stream
            What to draw, for ``k`` samples.
        """
        name = (*signature(x[:1]), x.device)
        if name not in self._plans:
            self._plans[name] = self._found(call, x[:1].expand(2, *x.shape[1:]))
            for i in range(len(self._plans[name])):
                self._put.also(f"{MASK}{i}", self._values, f"{MASK}{i}")
                self._values.setdefault(f"{MASK}{i}", None)
        return self._plans[name], self._drawn(self._plans[name], stream, x)

    def _found(self, call: Callable[[Tensor], Tensor], two: Tensor) -> tuple[Call, ...]:
        """The passages in a pass over two items."""
        self._seen = []
        try:
            with torch.no_grad():
                call(two)
            calls = tuple(self._seen)
        finally:
            self._seen = None
        if not calls:
            raise UsageError(
                "method 'mc_dropout': the forward pass calls none of the module's dropout layers"
            )
        return calls

    @contextmanager
    def applied(self, calls: tuple[Call, ...]) -> Iterator[None]:
        """Within the block the module is evaluated with masks."""
        self._calls = calls
        try:
            yield
        finally:
            self._calls = None

    # Drawing ------------------------------------------------------------------------------------

    def _drawn(self, calls: tuple[Call, ...], stream: Stream, x: Tensor) -> dict[str, Tensor]:
        """``(k, items * rows or 1, ...)`` masks of each call, ready to multiply."""
        kind = number_type(x) or torch.float32
        if self.per_item:
            assert stream.index is not None
            keys = place_keys(stream.keys, x.device)
            return _named(m.flatten(1, 2) for m in self._masks(calls, keys, stream.index, kind))
        name = (calls, stream.keys, stream.samples, kind, x.device)
        first, ahead = self._ahead.get(name, (0, []))
        if not first <= stream.step < first + len(ahead):
            first, ahead = stream.step, self._next_steps(calls, stream, kind, x.device)
            if len(self._ahead) >= 32:
                self._ahead.clear()
            self._ahead[name] = (first, ahead)
        return ahead[stream.step - first]

    def _next_steps(
        self, calls: Sequence[Call], stream: Stream, kind: torch.dtype, device: torch.device
    ) -> list[dict[str, Tensor]]:
        """The masks of all samples, for as many steps as it pays to draw at once."""
        samples, keys = stream.samples, place_keys(stream.keys, device)
        size = len(samples) * sum(math.prod(c.mask_shape(False)) for c in calls)
        steps = max(1, min(64, AHEAD // size)) if stream.more else 1
        own = torch.arange(samples.start, samples.stop, device=device)
        at = torch.arange(stream.step, stream.step + steps, device=device) * MOST_SAMPLES
        masks = self._masks(calls, keys, (at[:, None] + own).flatten(), kind)
        # one key; the places are steps and samples
        parts = [m[0].unflatten(0, (steps, len(samples))).unbind() for m in masks]
        return [_named(step) for step in zip(*parts, strict=True)]

    def _masks(
        self, calls: Sequence[Call], keys: Tensor, places: Tensor, kind: torch.dtype
    ) -> list[Tensor]:
        """``(keys, places, *mask shape)`` of each call."""
        shapes = [c.mask_shape(self.per_item) for c in calls]
        sizes = [math.prod(s) for s in shapes]
        bits = place_bits(keys, places, -(-sum(sizes) // 4)).view(torch.int16)[..., : sum(sizes)]
        levels = [min(round(c.rate * LEVELS), LEVELS - 1) for c in calls]
        if len(set(levels)) == 1:
            parts: Sequence[Tensor] = self._kept(bits, levels[0], kind).split(sizes, dim=-1)
        else:
            pairs = zip(bits.split(sizes, dim=-1), levels, strict=True)
            parts = [self._kept(part, level, kind) for part, level in pairs]
        return [p.unflatten(-1, shape) for p, shape in zip(parts, shapes, strict=True)]

    @staticmethod
    def _kept(bits: Tensor, dropped: int, kind: torch.dtype) -> Tensor:
        return (bits >= dropped - LEVELS // 2).to(kind).mul_(LEVELS / (LEVELS - dropped))

    # Hooks --------------------------------------------------------------------------------------

    def _begin(self, *_: Any) -> None:
        self._done = 0

    def _end(self, *_: Any) -> None:
        if self._calls is not None and self._done != len(self._calls):
            raise UsageError(
                f"method 'mc_dropout': {self._done} of {len(self._calls)} dropout layers were "
                f"called; the forward pass must be the same each time"
            )

    def _after(self, layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        return self._masked(layer, output)

    def _before(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._masked(layer, inputs[0]), *inputs[1:])

    def _masked(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self._seen is not None:
            rows, left = divmod(len(x), 2)
            if left:
                raise UsageError(
                    f"method 'mc_dropout': a {type(layer).__name__} layer has {len(x)} rows for 2 "
                    f"items; its first axis must be that of the batch"
                )
            self._seen.append(Call(layer, self._layers[layer], rows, tuple(x.shape[1:])))
            return x
        if self._calls is None:
            if torch._C._current_graph_task_id() != -1:
                raise UsageError(
                    "method 'mc_dropout' draws its masks in the forward pass alone: it needs "
                    "model.checkpoint = false"
                )
            return x  # somebody else calls the module: without dropout
        at = self._done
        if at >= len(self._calls) or self._calls[at].layer is not layer:
            raise UsageError(
                f"method 'mc_dropout': a {type(layer).__name__} layer is called out of turn; the "
                f"forward pass must be the same each time"
            )
        self._done += 1
        mask = self._values[f"{MASK}{at}"]
        if mask.dtype != x.dtype:  # autocast
            mask = mask.to(x.dtype)
        return x * mask


def _named(masks: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{MASK}{i}": mask for i, mask in enumerate(masks)}


def _refuse_unreachable(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
            raise UsageError(
                f"method 'mc_dropout': {name} is a {type(part).__name__}, which does not leave "
                f"units out as masks do; use nn.Dropout layers"
            )
