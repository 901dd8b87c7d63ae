"""Monte Carlo dropout: a sample is the network with some of its units left out.

    y_s = f(x; w, z_s),        z_s = 0 with probability rate, else 1 / (1 - rate)

(Gal and Ghahramani 2016; the paper's second use case.) The weights are deterministic and the same
for all samples; their masks are what is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.base import Method
from hpcsamp.methods.masks import Masks, Stream
from hpcsamp.methods.passing import ALL
from hpcsamp.streams import Purpose, key
from hpcsamp.weights import Caller, Passes, PlainVariables, Put, evaluate


class MCDropout(Method):
    """Dropout whose masks are drawn for (seed, step, sample), in prediction for (seed, sample).

    Masks apply where the module has ``nn.Dropout`` layers; in a module without any, to the inputs
    of each ``nn.Linear`` but the first.

    Parameters
    ----------
    module
        Any module whose first axis is the batch.
    rate
        Chance of a unit to be dropped, rounded to a multiple of 2**-16. Default: the layers' own;
        0.1 in a module without dropout layers.
    masks
        ``"sample"``: one mask per sample and layer for all items and positions, i.e. a draw of a
        sub-network. ``"item"``: a mask for each item, named by its position in its split, so that
        it depends neither on the batch nor on the grid.
    prior_std
        Standard deviation ``l`` of the prior of the weights, for a penalty of ``sum w^2 / (2 l^2)``
        nats (Gal and Ghahramani's weight decay; their factor of a layer's keep rate is left to
        ``l``). None: no penalty.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.
    autocast
        As in :class:`~hpcsamp.methods.mean_field.MeanField`.

    Attributes
    ----------
    module
        The module; it drops nothing by itself.

    Raises
    ------
    UsageError
        For values that cannot be, or a module with no place for masks.
    """

    usual = Passes(ALL)
    trains_with_noise = False  # masks are the same bits everywhere

    def __init__(
        self,
        module: nn.Module,
        *,
        rate: float | None = None,
        masks: Literal["sample", "item"] = "sample",
        prior_std: float | None = None,
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(seed, samples_per_pass)
        if rate is not None and not 0 <= rate < 1:
            raise UsageError(f"method.rate = {rate} must be from 0 to below 1")
        if masks not in ("sample", "item"):
            raise UsageError(f"method.masks = {masks!r}; there is sample, item")
        if prior_std is not None and prior_std <= 0:
            raise UsageError(f"method.prior_std = {prior_std} must be greater than 0")
        self.prior_std = prior_std
        self._put = Put(module)
        self._caller = Caller(module)
        self._masks = Masks(self._put, rate, masks == "item")
        self._variables = PlainVariables(module)
        self._keys: dict[bool, tuple[int]] = {}
        self.module = module
        self.autocast = autocast
        self.train(self.training)

    @property
    def networks(self) -> list[nn.Module]:
        """See :attr:`Method.networks`."""
        return [self.module]

    @property
    def callers(self) -> list[Caller]:
        """See :attr:`Method.callers`."""
        return [self._caller]

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
        step = self.step if step is None else step
        outputs = []
        for chunk in self.chunks(samples, stacked):
            views = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            items = views[0] if stacked else views
            stream = self._stream(chunk, step, items, index)
            calls, masks = self._masks.of(self._call, items, stream)
            with self._masks.applied(calls):
                y = evaluate(
                    self._put,
                    self._call,
                    masks,
                    {},
                    views,
                    samples=len(chunk),
                    stacked=stacked,
                    strategy=self.passes.strategy,
                )
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _stream(self, samples: range, step: int, x: Tensor, index: Tensor | None) -> Stream:
        predict = self.in_prediction
        name = (self.seed, Purpose.PREDICT if predict else Purpose.DROPOUT)
        if not self._masks.per_item:
            if predict not in self._keys:
                self._keys[predict] = (key(*name),)
            return Stream(self._keys[predict], samples, 0 if predict else step, more=not predict)
        if index is None:
            index = torch.arange(len(x), device=x.device)
        counters = () if predict else (step,)
        return Stream(tuple(key(*name, *counters, s) for s in samples), samples, index=index)

    def _call(self, x: Tensor) -> Tensor:
        if self.autocast is None:
            return self._caller(x)
        with torch.autocast(x.device.type, self.autocast):
            return self._caller(x)

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """``sum w^2 / (2 prior_std^2)`` in nats, or its slice of each layer's weights."""
        if self.prior_std is None or not self._variables.random.names:
            return next(self.module.parameters()).new_zeros(())
        own = dict(self.module.named_parameters())
        decaying = [own[name] for name in self._variables.random.names]
        shares = (
            p.flatten()[p.numel() * part // parts : p.numel() * (part + 1) // parts]
            for p in decaying
        )
        squares = torch.stack([s.square().sum() for s in shares])
        return squares.sum() / (2 * self.prior_std**2)

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`Method.constants`: buffers that are not in the module's own state."""
        own = self.module.state_dict()
        return {n: b.detach() for n, b in self.module.named_buffers() if n not in own}

    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of each layer."""
        yield from self._variables.means().items()

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, of the module too, but for its dropout layers."""
        result = super().train(mode)
        self._masks.silence()
        return result
