"""Mean-field variational inference: every weight a normal distribution of its own.

    w_s = mean + exp(log_std) * eps_s,        eps_s ~ N(0, 1) drawn for (seed, step, sample)

(Bayes by Backprop; Blundell et al. 2015, Algorithm 1 of the paper.) All means lie in one flat
tensor, all log standard deviations in another, so that a draw is one fused operation, the gradient
one exchange, and the optimiser step one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.adapters import Adapter, PlainAdapter, TorchBlueAdapter
from hpcsamp.methods.base import Method, in_parts
from hpcsamp.methods.normal import Divergence, Draw, FlatAccumulator, LogRatio
from hpcsamp.streams import Purpose, fill_normal, torch_generator


class MeanField(Method):
    """Mean-field normal posterior over the weights of a module.

    Parameters
    ----------
    module
        A plain ``nn.Module`` (no change to its architecture), whose present parameters are the
        initial means; or one with torch_blue's ``VIModule`` in it, which brings its own priors and
        initial values.
        The module's parameters afterwards share memory with the method's.
    prior_mean, prior_std
        Normal prior of every weight of a plain module.
    initial_std
        Initial posterior standard deviation of a plain module.
    scale_std
        Multiply ``initial_std`` by ``1 / sqrt(fan in)`` of the layer.
    bayesian
        Says by name which parameters of a plain module are random (default: all but those of
        normalisation layers, as in torch_blue).
    antithetic
        In training, sample ``2k + 1`` takes minus the noise of sample ``2k``, on whichever ranks
        they are (with S odd the last one has no partner). Each draw has the same distribution; the
        terms of the gradient that are odd in the noise cancel within a pair.
    autocast
        Type in which the module is evaluated where torch deems it safe, e.g. ``torch.bfloat16``;
        parameters and draws keep theirs.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.

    Attributes
    ----------
    mean, log_std
        ``(n,)``, the variational parameters of all variables in the order of the module.
    fixed
        ``(m,)``, parameters that stay deterministic, or None.

    Raises
    ------
    UsageError
        For a module with nothing to learn, or distributions other than normal ones.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prior_mean: float = 0.0,
        prior_std: float = 0.2,
        initial_std: float = 0.02,
        scale_std: bool = False,
        antithetic: bool = False,
        bayesian: Callable[[str], bool] | None = None,
        seed: int = 1,
        samples_per_pass: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(seed, samples_per_pass)
        for what, value in {"prior_std": prior_std, "initial_std": initial_std}.items():
            if value <= 0:
                raise UsageError(f"method.{what} = {value} must be greater than 0")
        from torch_blue.vi import VIModule

        adapter: Adapter
        if any(isinstance(part, VIModule) for part in module.modules()):
            adapter = TorchBlueAdapter(module)
        else:
            adapter = PlainAdapter(
                module, (prior_mean, prior_std), initial_std, scale_std, bayesian
            )
        if not adapter.slots:
            raise UsageError(f"{type(module).__name__} has no weights to be Bayesian about")
        self._adapter = [adapter]  # in a list: its parameters are views of ours, not to register
        slots = adapter.slots
        self._shapes = [slot.mean.shape for slot in slots]
        self._sizes = [slot.size for slot in slots]
        self._fixed_names = list(adapter.fixed)
        self._fixed_shapes = [p.shape for p in adapter.fixed.values()]
        self.mean = nn.Parameter(torch.cat([s.mean.flatten() for s in slots]))
        self.log_std = nn.Parameter(torch.cat([s.log_std.flatten() for s in slots]))
        self.fixed: nn.Parameter | None = None
        if adapter.fixed:
            self.fixed = nn.Parameter(
                torch.cat([p.detach().flatten() for p in adapter.fixed.values()])
            )
        self.antithetic = antithetic
        self.autocast = autocast
        self._accumulator: FlatAccumulator | None = None
        self._link()

    @property
    def module(self) -> nn.Module:
        """The wrapped module; its parameters show the posterior."""
        return self._adapter[0].module

    @property
    def networks(self) -> list[nn.Module]:
        """See :attr:`Method.networks`."""
        return [self.module]

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
        outputs: list[Tensor] = []
        std = self.std() if self._accumulator is None else None  # an accumulator has its own
        for chunk in self.chunks(samples):
            inputs = x[chunk.start - samples.start : chunk.stop - samples.start] if stacked else x
            if len(chunk) == 1 and self.samples_per_pass == 1:
                weights = self.draw(step, chunk.start, std)
                outputs.append(self._evaluate(weights, inputs[0] if stacked else x)[None])
            else:
                weights = Draw.apply(
                    self.mean,
                    self.log_std,
                    std,
                    torch.stack([self.noise(step, s) for s in chunk]),
                )
                outputs.append(
                    torch.func.vmap(self._evaluate, in_dims=(0, 0 if stacked else None))(
                        weights, inputs
                    )
                )
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def noise(self, step: int, sample: int) -> Tensor:
        """``(n,)`` standard normal numbers of one sample."""
        sample, sign = self.partner(sample)
        counters = (sample,) if self._purpose is Purpose.PREDICT else (step, sample)
        generator = torch_generator(self.mean.device, self.seed, self._purpose, *counters)
        noise = fill_normal(torch.empty_like(self.mean, requires_grad=False), generator)
        return noise if sign > 0 else noise.neg_()

    def partner(self, sample: int) -> tuple[int, int]:
        """Whose noise a sample takes, and with which sign."""
        if self.antithetic and self._purpose is not Purpose.PREDICT and sample % 2:
            return sample - 1, -1
        return sample, 1

    def draw(self, step: int, sample: int, std: Tensor | None = None) -> Tensor:
        """``(n,)`` weights of one sample, differentiable in mean and log_std.

        ``std``: :meth:`std`, if the caller has it already.
        """
        noise = self.noise(step, sample)
        if self._accumulator is not None:
            return self._accumulator.draw(noise)
        std = self.std() if std is None else std
        weights: Tensor = Draw.apply(self.mean, self.log_std, std, noise)
        return weights

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Sum gradients over the samples of a loop in two passes over the parameters a sample."""
        if self.samples_per_pass > 1:
            with super().accumulating() as accumulator:
                yield accumulator
            return
        self._accumulator = FlatAccumulator(
            self.mean, self.log_std, self.std(), self.fixed, self._shapes
        )
        try:
            yield self._accumulator
        finally:
            self._accumulator = None

    def std(self) -> Tensor:
        """``(n,)`` standard deviations, without gradient.

        Not kept from one call to the next: torch's fused optimisers change ``log_std`` without
        counting it as a change.
        """
        return self.log_std.detach().exp()

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """KL(q || prior) in nats, by torch_blue's divergence; or a share of it.

        Shares are slices of the flat parameters, so P ranks compute each gradient element once.
        """
        lo, hi = self.mean.numel() * part // parts, self.mean.numel() * (part + 1) // parts
        spans = [
            (max(start, lo), min(stop, hi), prior)
            for start, stop, prior in self._prior_spans()
            if start < hi and stop > lo
        ]
        value: Tensor = Divergence.apply(self.mean, self.log_std, spans, torch.is_grad_enabled())
        return value

    def penalties(self) -> dict[str, tuple[int, float]]:
        """Weights and KL of each variable; see :meth:`Method.penalties`."""
        result, start = {}, 0
        for slot in self._adapter[0].slots:
            stop = start + slot.size
            span = [(start, stop, slot.prior)]
            kl = Divergence.apply(self.mean.detach(), self.log_std.detach(), span, False)
            result[slot.name] = (slot.size, float(kl))
            start = stop
        return result

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """Log density ratios of draws, see :meth:`Method.log_ratio`.

        The noise is drawn again, here and in the backward pass, rather than kept for S samples.
        """
        step = self.step if step is None else step
        noises = partial(self._noises, samples, step)
        spans = list(self._prior_spans())
        value: Tensor = LogRatio.apply(self.mean, self.log_std, self.std(), noises, spans)
        return value

    def _noises(self, samples: range, step: int) -> Iterator[Tensor]:
        return (self.noise(step, s) for s in samples)

    def _prior_spans(self) -> Iterator[tuple[int, int, tuple[float, float] | None]]:
        """Runs of neighbouring variables with the same prior: for most models a single one."""
        start = stop = 0
        slots = self._adapter[0].slots
        for slot, following in [*pairwise(slots), (slots[-1], None)]:
            stop += slot.size
            if following is None or following.prior != slot.prior:
                yield start, stop, slot.prior
                start = stop

    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """``name.mean`` and ``name.log_std`` of each variable, then the deterministic ones."""
        slots = self._adapter[0].slots
        for slot, mean, log_std in zip(
            slots, self._views(self.mean), self._views(self.log_std), strict=True
        ):
            yield f"{slot.name}.mean", mean.detach()
            yield f"{slot.name}.log_std", log_std.detach()
        for name, value in self._fixed_views().items():
            yield name, value.detach()

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`Method.constants`."""
        return self._adapter[0].constants()

    def _evaluate(self, weights: Tensor, x: Tensor) -> Tensor:
        accumulator = self._accumulator
        variables = self._views(weights) if accumulator is None else accumulator.variables
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            return self._adapter[0].call(variables, self._fixed_views(), x)

    def _views(self, flat: Tensor) -> list[Tensor]:
        # split, not slices: its backward is one concatenation, that of n slices n full-size sums
        parts = flat.split(self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _fixed_views(self) -> dict[str, Tensor]:
        if self.fixed is None:
            return {}
        parts = self.fixed.split([s.numel() for s in self._fixed_shapes])
        return {
            name: part.view(shape)
            for name, part, shape in zip(self._fixed_names, parts, self._fixed_shapes, strict=True)
        }

    def _link(self) -> None:
        adapter = self._adapter[0]
        adapter.link(self._views(self.mean.data), self._views(self.log_std.data))
        for name, value in self._fixed_views().items():
            adapter.fixed[name].data = value.detach()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or convert: the module's buffers follow, its parameters are linked anew."""
        self.module._apply(in_parts(fn))
        result = super()._apply(fn, recurse)
        self._link()
        return result

    def train(self, mode: bool = True) -> MeanField:
        """Training or evaluation mode, of the wrapped module too."""
        self.module.train(mode)
        return super().train(mode)
