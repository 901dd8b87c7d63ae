"""What flipout and local reparameterisation share: items of a batch see noise of their own.

    y_b = layer(x_b; mean) + something with the mean 0, drawn for (seed, step, sample, item)

The posterior, the penalty and the predictive distribution are those of the mean-field method, and
so is the expectation of the gradient; but in a batch the noise averages out over items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.streams import Purpose, key
from hpcsamp.streams.places import place_keys
from hpcsamp.weights import PlainVariables

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
KINDS = (nn.Linear, *CONVOLUTIONS)
STEP = 0xD1B5_4A32_D192_ED03
"""Odd: keys of the layers of a sample are apart."""


@dataclass(frozen=True)
class Layer:
    """A layer that adds noise per item.

    Attributes
    ----------
    module
        The layer.
    number
        Its number, part of the name of its stream.
    weight, bias
        Which of the random variables they are; None for a bias that is none.
    """

    module: nn.Module
    number: int
    weight: int
    bias: int | None

    @property
    def axis(self) -> int:
        """Axis of the features."""
        return 1 if isinstance(self.module, CONVOLUTIONS) else -1

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer as a function of its weights."""
        if isinstance(self.module, CONVOLUTIONS):
            y: Tensor = self.module._conv_forward(x, weight, bias)
            return y
        return F.linear(x, weight, bias)


@dataclass
class Draw:
    """The sample that is being evaluated.

    Attributes
    ----------
    key
        ``()`` int64, of its stream.
    sign
        ``()`` 1 or -1: of all its noise (antithetic pairs).
    index
        ``(B,)`` places of the items.
    std, noise
        One tensor per random variable; ``noise`` is None if no layer asked for it.
    calls
        How often each layer was called.
    """

    key: Tensor
    sign: Tensor
    index: Tensor
    std: list[Tensor]
    noise: list[Tensor] | None
    calls: dict[int, int] = field(default_factory=dict)

    def stream(self, layer: Layer) -> Tensor:
        """``()`` key for a call of a layer."""
        count = self.calls.get(layer.number, 0)
        self.calls[layer.number] = count + 1
        offset = place_keys([STEP * (layer.number << 16 | count)], self.key.device)[0]
        return self.key + offset


class ItemNoise(MeanField):
    """Mean-field normal posterior, trained with noise per item; see the subclasses.

    Layers that take part are ``nn.Linear`` and convolutions with random weights of their own that
    the forward pass calls with the batch as first axis. Variables elsewhere (tokens, positions,
    attention's ``in_proj``) take ordinary draws of the sample, the same for all items. Prediction
    takes ordinary draws throughout, so that each prediction sample is a function.
    """

    #: Whether layers need ``noise`` of the weights' shapes.
    weight_noise = True
    _layers: dict[nn.Module, Layer] | None = None
    _now: Draw | None = None
    _seen: dict[nn.Module, int] | None = None

    @abstractmethod
    def perturbation(self, layer: Layer, draw: Draw, x: Tensor, y: Tensor) -> Tensor:
        """What to add to the outputs of a layer.

        Parameters
        ----------
        layer, draw
            Of which layer and sample.
        x, y
            Its inputs ``(B * r, ...)``, and its outputs with the mean weights.
        """

    def forward(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> Tensor:
        """Outputs of some samples, see :meth:`Method.forward`."""
        if self.in_prediction:
            return super().forward(x, samples, step, stacked=stacked, index=index)
        step = self.step if step is None else step
        if index is None:
            index = torch.arange(x.shape[1] if stacked else len(x), device=x.device)
        layers = self._found(x[0] if stacked else x)
        caught = {i for layer in layers.values() for i in (layer.weight, layer.bias)}
        layout = self.variables.random
        drawn = self.weight_noise or any(i not in caught for i in range(len(layout.names)))
        std, mean = layout.views(self.log_std.exp()), layout.views(self.mean)

        def evaluate(noise: Tensor, stream: Tensor, sign: Tensor, x: Tensor) -> Tensor:
            noises = layout.views(noise) if drawn else None
            weights = [
                m if i in caught or noises is None else torch.addcmul(m, std[i], noises[i])
                for i, m in enumerate(mean)
            ]
            self._now = Draw(stream, sign, index, std, noises)
            try:
                values = dict(zip(layout.names, weights, strict=True)) | self._fixed_views()
                with torch.autocast(x.device.type, self.autocast, enabled=bool(self.autocast)):
                    return self.variables.call(values, x)
            finally:
                self._now = None

        outputs = []
        for chunk in self.chunks(samples):
            partners = [self.partner(s) for s in chunk]
            streams = place_keys(
                [key(self.seed, Purpose.ITEM, step, s) for s, _ in partners], x.device
            )
            kind = self.mean.dtype
            signs = torch.tensor([sign for _, sign in partners], dtype=kind, device=x.device)
            inputs = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            noise = signs  # for the sake of a tensor
            if drawn:
                noise = self.noise(step, chunk)
            if len(chunk) == 1:
                one = inputs[0] if stacked else inputs
                outputs.append(evaluate(noise[0], streams[0], signs[0], one)[None])
            else:
                axes = (0, 0, 0, 0 if stacked else None)
                outputs.append(torch.func.vmap(evaluate, axes)(noise, streams, signs, inputs))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Autograd's own way: gradients of standard deviations are not those of a draw."""
        yield Accumulator(self.parameters())

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """There is no density of a draw that all items share.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError(
            f"{type(self).__name__} gives each item weights of its own, which have no density "
            f'together: neither loss.kl = "monte_carlo" nor importance weights can be had of it'
        )

    # Layers ------------------------------------------------------------------------------------

    def _found(self, x: Tensor) -> dict[nn.Module, Layer]:
        """The layers that take part, found by two passes with two and with three items."""
        if self._layers is None:
            able = self._able()
            for module in able:
                module.register_forward_hook(self._hook)
            rows = []
            for items in (2, 3):
                self._seen = {}
                try:
                    with torch.no_grad():
                        self._evaluate(self.mean, x[:1].expand(items, *x.shape[1:]))
                    rows.append(self._seen)
                finally:
                    self._seen = None
            two, three = rows
            self._layers = {
                m: layer
                for m, layer in able.items()
                if m in two and two[m] % 2 == 0 and two[m] // 2 * 3 == three.get(m)
            }
            if not self._layers:
                raise UsageError(
                    f"{type(self).__name__}: the forward pass of {type(self.module).__name__} calls"
                    f" no nn.Linear or convolution with random weights; method.name = 'mean_field' "
                    f"needs none"
                )
        return self._layers

    def _able(self) -> dict[nn.Module, Layer]:
        if not isinstance(self.variables, PlainVariables):
            raise UsageError(
                f"{type(self).__name__} takes a plain nn.Module, not a torch_blue "
                f"{type(self.module).__name__}"
            )
        places = {name: i for i, name in enumerate(self.variables.random.names)}
        owners: dict[int, int] = {}
        for part in self.module.modules():
            for p in part.parameters(recurse=False):
                owners[id(p)] = owners.get(id(p), 0) + 1
        result: dict[nn.Module, Layer] = {}
        for path, part in self.module.named_modules():
            name = f"{path}." if path else ""
            if type(part) not in KINDS or f"{name}weight" not in places:
                continue  # subclasses may use their weights otherwise, as attention's out_proj
            if any(owners[id(p)] > 1 for p in part.parameters(recurse=False)):
                continue  # tied: used elsewhere, too
            bias = places.get(f"{name}bias")
            result[part] = Layer(part, len(result), places[f"{name}weight"], bias)
        return result

    def _hook(self, module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        if self._seen is not None:
            self._seen[module] = len(inputs[0]) if inputs[0].dim() > 1 else 0
            return y
        if self._now is None:
            if self._layers and torch._C._current_graph_task_id() != -1:
                raise UsageError(
                    f"{type(self).__name__} draws in the forward pass alone: it needs "
                    f"model.checkpoint = false"
                )
            return y  # a prediction, or somebody else calls the module
        layer = (self._layers or {}).get(module)
        if layer is None:
            return y
        x, items = inputs[0], len(self._now.index)
        if len(x) % items:
            raise UsageError(
                f"{type(self).__name__}: a {type(module).__name__} layer has {len(x)} rows for "
                f"{items} items; its first axis must be that of the batch"
            )
        return y + self.perturbation(layer, self._now, x, y)


def spread(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """``(B, C)`` values of items so that they multiply ``(B * r, ..., C, ...)``, C at ``axis``."""
    shape: list[Any] = [1] * like.dim()
    shape[axis] = values.shape[-1]
    rows = len(like) // len(values)
    if rows > 1:
        values = values.repeat_interleave(rows, dim=0)
    return values.reshape(len(like), *shape[1:])
