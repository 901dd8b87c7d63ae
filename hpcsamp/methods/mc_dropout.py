"""Monte Carlo dropout: a sample is the network with some of its units dropped.

    y_s = f(x; w, z_s),        z_s = 0 with probability rate, else 1 / (1 - rate)

(Gal and Ghahramani 2016; the second use case of arXiv 2604.04736.) The weights are deterministic
and the same for all samples; the masks are sampled. With ``masks = "fixed"`` they are Masksembles
(Durasov et al. 2021): sample s has mask ``s mod n`` of each layer in all steps and in prediction,

    y_s = f(x; w, z_(s mod n)),        z_i of 0 and 1 with a fixed number of ones, see
                                       :mod:`hpcsamp.weights.routing.masksembles`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.base import Method
from hpcsamp.methods.masks import MaskedLayers
from hpcsamp.methods.passing import ALL
from hpcsamp.weights import (
    Caller,
    Masks,
    MaskSet,
    Passes,
    Pieces,
    Place,
    PlainVariables,
    Put,
    evaluate,
)
from hpcsamp.weights.complex_parts import parts_of
from hpcsamp.weights.pieces import parts_in


class MCDropout(Method):
    """Dropout with masks drawn for (seed, step, sample), or for (seed, sample) in prediction.

    Masks apply to everything that the module drops in training: dropout layers and functions,
    attention and recurrent dropout, stochastic depth. In a module without any, they apply to the
    inputs of each ``nn.Linear`` but the first. They also apply in prediction.

    Parameters
    ----------
    module
        Any module whose first axis is the batch.
    rate
        Probability of dropping a unit, rounded to a multiple of 2**-16. Default: the layers' own;
        0.1 in a module without dropout of its own. Stochastic depth keeps its own rates.
    masks
        ``"sample"``: one mask per sample and call for all items and positions, i.e. a draw of a
        sub-network; it masks units (channels for ``nn.Dropout2d`` and similar layers, otherwise
        entries of the last axis). ``"item"``: a mask as torch draws it for each item, identified by
        the item's position in its split, so that it depends neither on the batch nor on the grid.
        ``"fixed"``: Masksembles, fixed masks of the units that all items share; kept units are not
        scaled. Sample s has mask ``s mod mask_count`` in training and in prediction. Units are
        those of ``"sample"``; rates of layers do not matter, but layers of rate 0 are not masked.
    mask_count
        Number n of fixed masks, at least 2; default 4. S should be n.
    mask_scale
        Overlap of fixed masks, at least 1; default 2. A mask keeps ``1 / (scale (1 - (1 -
        1/scale)^n))`` of the units: with 1 all of them, with a large scale 1/n, and no unit is in
        two masks.
    prior_std
        Standard deviation ``l`` of the prior of the weights, for a penalty of ``sum w^2 / (2 l^2)``
        nats (the weight decay of Gal and Ghahramani; their factor of a layer's keep rate must be
        included in ``l``). None: no penalty.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.
    autocast
        As in :class:`~hpcsamp.methods.mean_field.MeanField`.

    Attributes
    ----------
    module
        The module.

    Raises
    ------
    UsageError
        If a value is out of range, or no layer of the module can apply masks.
    """

    usual = Passes(ALL)
    in_parts = True
    captures = True
    trains_with_noise = False  # masks are the same bits on all devices
    draws = 2  # from the streams of a module's own random numbers

    def __init__(
        self,
        module: nn.Module,
        *,
        rate: float | None = None,
        masks: Literal["sample", "item", "fixed"] = "sample",
        mask_count: int | None = None,
        mask_scale: float | None = None,
        prior_std: float | None = None,
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(seed, samples_per_pass)
        if rate is not None and not 0 <= rate < 1:
            raise UsageError(f"method.rate = {rate} must be at least 0 and below 1")
        if masks not in ("sample", "item", "fixed"):
            raise UsageError(f"method.masks = {masks!r}; choose from sample, item, fixed")
        if prior_std is not None and prior_std <= 0:
            raise UsageError(f"method.prior_std = {prior_std} must be greater than 0")
        self.prior_std = prior_std
        self._variables = PlainVariables(module)
        self._put = Put(module)
        self._caller = Caller(module)
        self._share_state([self._put])
        self._places = MaskedLayers(self._put)
        self.mask_set = _mask_set(masks, rate, mask_count, mask_scale)
        self._how = Masks(rate, masks != "item", self.mask_set)
        self.module = module
        self.autocast = autocast

    @classmethod
    def create(
        cls, network: Callable[[int | None], nn.Module], samples: int, own: range, **arguments: Any
    ) -> Self:
        """See :meth:`Method.create`."""
        made = super().create(network, samples, own, **arguments)
        made._check_samples("method.samples", samples)
        return made

    def prediction_samples(self, asked: int | None) -> int:
        """See :meth:`Method.prediction_samples`: by default each fixed mask once.

        Raises
        ------
        UsageError
            If the number is larger than that of fixed masks and not a multiple of it.
        """
        if self.mask_set is None:
            return super().prediction_samples(asked)
        found = self.mask_set.count if asked is None else asked
        self._check_samples("evaluation.samples", found)
        return found

    def _check_samples(self, key: str, samples: int) -> None:
        count = samples if self.mask_set is None else self.mask_set.count
        if samples > count and samples % count:
            raise UsageError(
                f"{key} = {samples} would use some of the {count} fixed masks more often than "
                f"others; choose {count} or a multiple of it, or change method.mask_count"
            )

    def _holders(self) -> list[tuple[Put, None]]:
        return [(self._put, None)]

    @property
    def networks(self) -> list[nn.Module]:
        """See :attr:`Method.networks`."""
        return [self.module]

    @property
    def callers(self) -> list[Caller]:
        """See :attr:`Method.callers`."""
        return [self._caller]

    def observe(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> None:
        """See :meth:`Method.observe`; first finds the layers that apply masks.

        That pass is in training mode, in which buffers are written to, so it is not observed.
        """
        place = replace(self.place_of(samples, step, index), masks=self._how)
        self._places.find(self._call, x[0] if stacked else x, place.some([0]))
        super().observe(x, samples, step, stacked=stacked, index=index)

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
        outputs = []
        for chunk in self.chunks(samples, stacked):
            views = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            place = replace(self.place_of(chunk, step, index), masks=self._how)
            with self._places.masked():
                y = evaluate(
                    self._put,
                    self._call,
                    self._estimated(place),
                    {},
                    views,
                    samples=len(chunk),
                    stacked=stacked,
                    strategy=self.way,
                    place=place,
                )
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def drawing(
        self, network: nn.Module, x: Any, sample: int
    ) -> tuple[Place, Callable[[], AbstractContextManager[Any]]]:
        """See :meth:`Method.drawing`: the masks of the sample."""
        place = replace(super().drawing(network, x, sample)[0], masks=self._how)
        places = MaskedLayers(Put(network))
        places.find(Caller(network), x, place)
        return place, places.masked

    def _call(self, x: Tensor) -> Tensor:
        if self.autocast is None:
            return self._caller(x)
        with torch.autocast(x.device.type, self.autocast):
            return self._caller(x)

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return ``sum w^2 / (2 prior_std^2)`` in nats, or its slice of each layer's weights."""
        if self.prior_std is None or not self._variables.random.names:
            first = next(self.module.parameters())
            return first.new_zeros((), dtype=first.dtype.to_real())
        own = dict(self.module.named_parameters())
        decaying = [parts_of(own[name]) for name in self._variables.random.names]
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

    def pieces(self) -> dict[str, Pieces]:
        """See :meth:`Method.pieces`."""
        own = {f"module.{name}": part for name, part in parts_in(self.module).items()}
        return own | self.constant_pieces()

    def named_pieces(self) -> dict[str, Pieces]:
        """See :meth:`Method.named_pieces`."""
        return {v.name: v.part for v in self._variables.trained.variables if v.part is not None}

    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over the weights of each layer."""
        own = dict(self.module.named_parameters())
        yield from ((name, own[name].detach()) for name in self._variables.trained.names)


def _mask_set(
    masks: str, rate: float | None, count: int | None, scale: float | None
) -> MaskSet | None:
    """Return the fixed masks that the arguments of a method describe; None for random masks."""
    given = {"mask_count": count, "mask_scale": scale}
    if masks != "fixed":
        for name, value in given.items():
            if value is not None:
                raise UsageError(
                    f"method.{name} = {value} describes fixed masks; set method.masks = 'fixed', "
                    f"or leave it out"
                )
        return None
    if rate is not None:
        raise UsageError(
            f"method.rate = {rate} does not apply to fixed masks, whose units are kept by "
            f"method.mask_scale; leave it out"
        )
    count, scale = 4 if count is None else count, 2.0 if scale is None else scale
    if count < 2:
        raise UsageError(f"method.mask_count = {count}: fixed masks need at least 2")
    if not 1 <= scale < math.inf:
        raise UsageError(f"method.mask_scale = {scale} must be at least 1")
    return MaskSet(count, float(scale))
