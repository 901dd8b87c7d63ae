"""Base of flipout and local reparameterisation: each item of a batch sees its own noise.

    y_b = layer(x_b; mean) + perturbation of mean 0, drawn for (seed, step, sample, item)

Posterior, penalty and predictive distribution are those of the mean-field method, and so is the
expectation of the gradient; but within a batch the noise averages out over items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
"""Odd constant that makes the keys of a sample's layers different."""
KEY, SIGN, NOISE = "stream of items", "sign of noise", "noise of variable "
"""Names of those values of a sample that are not parameters."""


@dataclass(frozen=True)
class NoisyLayer:
    """A layer that adds noise per item.

    Attributes
    ----------
    module
        The layer.
    number
        Number of the layer, which selects its stream.
    weight, bias
        Indices of its random variables; None if it has no bias.
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
        """Evaluate the layer as a function of its weights."""
        if isinstance(self.module, CONVOLUTIONS):
            y: Tensor = self.module._conv_forward(x, weight, bias)
            return y
        return F.linear(x, weight, bias)


@dataclass
class Draw:
    """The state of the chunk that is being evaluated.

    Attributes
    ----------
    index
        ``(B,)`` positions of the items in their split.
    std
        Standard deviations, one tensor per random variable.
    values
        Values of the sample that is being evaluated, by name.
    calls
        Number of calls of each layer so far in this pass.
    """

    index: Tensor
    std: list[Tensor]
    values: dict[str, Any]
    calls: dict[int, int] = field(default_factory=dict)

    @property
    def sign(self) -> Tensor:
        """Sign of the sample's noise, ``()`` 1 or -1 (antithetic pairs)."""
        sign: Tensor = self.values[SIGN]
        return sign

    def noise(self, variable: int) -> Tensor:
        """The sample's noise of a random variable, in its shape."""
        noise: Tensor = self.values[f"{NOISE}{variable}"]
        return noise

    def stream(self, layer: NoisyLayer) -> Tensor:
        """Key of the random stream of the next call of a layer, a scalar tensor."""
        count = self.calls.get(layer.number, 0)
        self.calls[layer.number] = count + 1
        own: Tensor = self.values[KEY]
        return own + place_keys([STEP * (layer.number << 16 | count)], self.index.device)[0]


class ItemNoise(MeanField):
    """Mean-field normal posterior, trained with noise per item; see the subclasses.

    The layers that get noise per item are ``nn.Linear`` and convolutions that have their own random
    weights and are called in the forward pass with the batch as first axis. Others (tokens,
    positions, attention's ``in_proj``) are drawn once per sample, for all items. Prediction draws
    all variables once per sample, so that each prediction sample is a function.
    """

    #: Whether layers need ``noise`` in the shape of the weights.
    weight_noise = True
    sums_in_one = False
    _layers: dict[nn.Module, NoisyLayer] | None = None
    _values: dict[str, Any]
    _now: Draw | None = None
    _seen: dict[nn.Module, int] | None = None

    @abstractmethod
    def perturbation(self, layer: NoisyLayer, draw: Draw, x: Tensor, y: Tensor) -> Tensor:
        """Return the noise to add to the outputs of a layer.

        Parameters
        ----------
        layer, draw
            The layer, and the sample's state.
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
        """Evaluate some samples, see :meth:`Method.forward`."""
        if self.in_prediction:
            return super().forward(x, samples, step, stacked=stacked, index=index)
        step = self.step if step is None else step
        if index is None:
            index = torch.arange(x.shape[1] if stacked else len(x), device=x.device)
        layers = self._found(x[0] if stacked else x)
        layout, outputs = self.variables.random, []
        caught = {i for layer in layers.values() for i in (layer.weight, layer.bias)}
        drawn = self.weight_noise or any(i not in caught for i in range(len(layout.names)))
        std, mean = layout.views(self.log_std.exp()), layout.views(self.mean)
        shared = self._fixed_views()
        shared |= {layout.names[i]: mean[i] for i in caught if i is not None}
        for chunk in self.chunks(samples, stacked):
            views = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            sampled = self._streams(step, chunk, x.device)
            if drawn:
                for i, noise in enumerate(layout.views(self.noise(step, chunk))):
                    if i in caught:
                        sampled[f"{NOISE}{i}"] = noise
                    else:
                        sampled[layout.names[i]] = torch.addcmul(mean[i], std[i], noise)
            self._now = Draw(index, std, self._values)
            place = self.place_of(chunk, step, index)
            try:
                y = self._run(self.variables, sampled, shared, views, len(chunk), stacked, place)
            finally:
                self._now = None
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _streams(self, step: int, samples: range, device: torch.device) -> dict[str, Tensor]:
        """Return ``(k,)`` keys of the items' streams and signs of their noise."""
        partners = [self.partner(s) for s in samples]
        keys = [key(self.seed, Purpose.ITEM, step, s) for s, _ in partners]
        signs = [sign for _, sign in partners]
        return {
            KEY: place_keys(keys, device),
            SIGN: torch.tensor(signs, dtype=self.mean.dtype, device=device),
        }

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Use autograd, because the gradients of standard deviations are not those of one draw."""
        yield Accumulator(self.parameters())

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """Refuse to compute densities, because the items do not share one draw of the weights.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError(
            f"{type(self).__name__} draws weights for each item, which have no common density, so "
            f'that neither loss.kl = "monte_carlo" nor importance weights can be computed'
        )

    # Layers ------------------------------------------------------------------------------------

    def _found(self, x: Tensor) -> dict[nn.Module, NoisyLayer]:
        """Find the layers that get noise per item.

        These are the layers whose number of rows is proportional to the number of items, in trial
        passes with two and three items.
        """
        if self._layers is None:
            able = self._able()
            for module in able:
                module.register_forward_hook(self._hook)
            names = [f"{NOISE}{i}" for i in range(len(self.variables.random.names))]
            self._values = dict.fromkeys((KEY, SIGN, *names))
            for name in self._values:
                self.variables.put.also(name, self._values, name)
            self.module.register_forward_pre_hook(self._begin)
            rows = []
            for items in (2, 3):
                self._seen = {}
                try:
                    with torch.no_grad():
                        values = self.variables.random.named(self.mean[None])
                        some = x[:1].expand(items, *x.shape[1:])
                        place = replace(self.place_of(range(1), 0, None), trial=True)
                        fixed = self._fixed_views()
                        self._run(self.variables, values, fixed, some, 1, False, place)
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
                    f" no nn.Linear or convolution with random weights; set method.name = "
                    f"'mean_field', which does not need any"
                )
        return self._layers

    def _able(self) -> dict[nn.Module, NoisyLayer]:
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
        result: dict[nn.Module, NoisyLayer] = {}
        for path, part in self.module.named_modules():
            name = f"{path}." if path else ""
            if type(part) not in KINDS or f"{name}weight" not in places:
                continue  # subclasses may use their weights differently, as attention's out_proj
            if any(owners[id(p)] > 1 for p in part.parameters(recurse=False)):
                continue  # tied: also used elsewhere
            if any(p.is_complex() for p in part.parameters(recurse=False)):
                continue  # the noise would be that of products of complex numbers
            bias = places.get(f"{name}bias")
            result[part] = NoisyLayer(part, len(result), places[f"{name}weight"], bias)
        return result

    def _begin(self, *_: Any) -> None:
        if self._now is not None:
            self._now.calls.clear()

    def _hook(self, module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        if self._seen is not None:
            self._seen[module] = len(inputs[0]) if inputs[0].dim() > 1 else 0
            return y
        if self._layers and torch._C._current_graph_task_id() != -1:  # a backward pass
            raise UsageError(
                f"{type(self).__name__} draws in the forward pass, which must not be repeated: "
                f"set model.checkpoint = false"
            )
        if self._now is None:
            return y  # a prediction, or a call from outside
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
    """Reshape ``(B, C)`` values of items to multiply ``(B * r, ..., C, ...)``; C is at ``axis``."""
    shape: list[Any] = [1] * like.dim()
    shape[axis] = values.shape[-1]
    rows = len(like) // len(values)
    if rows > 1:
        values = values.repeat_interleave(rows, dim=0)
    return values.reshape(len(like), *shape[1:])
