"""Variational inference on the last layer alone; the body is deterministic.

    y_s = h(x) W_s^T + b_s,        (W_s, b_s) = mean + exp(log_std) * eps_s

(Kristiadi et al. 2020 on why that may do; Brosse et al. 2020.) The body is evaluated once per rank
and step, not once per sample; all samples of the last layer are one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.methods.normal import Draw
from hpcsamp.models import LearnedNoise


class LastLayer(MeanField):
    """Mean-field normal posterior over an ``nn.Linear`` at the end of a module.

    Where the module does something to the layer's outputs, or where the layer is not what it ends
    with, all of the module is evaluated for each sample, which gives the same for more work. If
    each sample has inputs of its own, the body runs for each of them.

    Parameters
    ----------
    module
        A plain ``nn.Module``.
    layer
        Name of the layer, e.g. ``head``. Default: the last ``nn.Linear`` in the order of the
        module, which must also be the last that the forward pass calls.
    prior_mean, prior_std, initial_std, scale_std, antithetic, autocast
        See :class:`~hpcsamp.methods.mean_field.MeanField`.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`; the latter counts where the body is evaluated
        for each sample.

    Raises
    ------
    UsageError
        If there is no such layer, or, at the first call, if it is not the last one called.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        layer: str | None = None,
        prior_mean: float = 0.0,
        prior_std: float = 0.2,
        initial_std: float = 0.02,
        scale_std: bool = False,
        antithetic: bool = False,
        seed: int = 1,
        samples_per_pass: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        wrapper = module if isinstance(module, LearnedNoise) else None
        network = module if wrapper is None else wrapper.network
        linear = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
        named = {n: m for n, m in linear.items() if type(m) is nn.Linear}
        if not named:
            raise UsageError(f"method 'last_layer': {type(network).__name__} has no nn.Linear")
        if layer is not None and layer not in named:
            raise UsageError(f"method.layer = {layer!r}; there is {', '.join(map(repr, named))}")
        name = list(named)[-1] if layer is None else layer
        start = ("network." if wrapper is not None else "") + (f"{name}." if name else "")
        trained = {n for n, p in module.named_parameters() if p.requires_grad}
        if not {f"{start}{n}" for n, _ in named[name].named_parameters()} <= trained:
            raise UsageError(
                f"method.layer = {name!r}: its weights are frozen or shared with another layer; "
                f"they must be its own, and trained"
            )
        super().__init__(
            module,
            prior_mean=prior_mean,
            prior_std=prior_std,
            initial_std=initial_std,
            scale_std=scale_std,
            antithetic=antithetic,
            bayesian=lambda n: n in (f"{start}weight", f"{start}bias"),
            seed=seed,
            samples_per_pass=samples_per_pass,
            autocast=autocast,
        )
        self.layer = name
        self._chosen = layer is not None
        self._last = [named[name]]  # in a list: not to register it
        self._network, self._wrappers = [network], [wrapper]
        self._outputs: Tensor | None = None  # of the network, in the last call
        self._called: list[tuple[nn.Module, Tensor, Tensor]] | None = None
        self._whole: bool | None = None  # whether the module ends with the layer, once known
        for part in linear.values():
            part.register_forward_hook(self._hook)
        network.register_forward_hook(self._keep)

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
        if not self._ends_with_layer(x[0] if stacked else x):
            return super().forward(x, samples, step, stacked=stacked, index=index)
        noise = self.noise(step, samples)
        drawn = Draw.apply(self.mean, self.log_std, self.std(), noise)
        weight, *bias = self.variables.random.views(drawn)
        if stacked:
            features = torch.stack([self._features(view) for view in x])
        else:
            features = self._features(x)
        with torch.autocast(x.device.type, self.autocast, enabled=bool(self.autocast)):
            if stacked:
                outputs = features.flatten(1, -2) @ weight.mT
            else:  # one product for all samples
                outputs = features.flatten(0, -2) @ weight.flatten(0, 1).T
                outputs = outputs.unflatten(-1, weight.shape[:2]).movedim(1, 0)
            if bias:
                outputs = outputs + bias[0][:, None]
        shape = features.shape[1:-1] if stacked else features.shape[:-1]
        outputs = outputs.unflatten(1, shape)
        (wrapper,) = self._wrappers
        if wrapper is None:
            return outputs
        return wrapper.beside(outputs, self._fixed_views()["log_std"], lead=2)

    def chunks(self, samples: range, stacked: bool = False) -> Iterator[range]:
        """All samples at once, as they share the body's pass; with inputs of their own, in pieces.

        What belongs to a sample alone is as small as its outputs.
        """
        if stacked or self._whole is False:
            yield from super().chunks(samples)
        elif samples:
            yield samples

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Autograd's own way: there are few random weights."""
        yield Accumulator(self.parameters())

    def _features(self, x: Tensor) -> Tensor:
        """``(B, ..., features)`` what the layer is given."""
        self._called = []
        try:
            self._evaluate(self.mean.detach(), x)
            return next(h for part, h, _ in reversed(self._called) if part is self._last[0])
        finally:
            self._called = self._outputs = None

    def _ends_with_layer(self, x: Tensor) -> bool:
        """Whether the layer's outputs are the network's; found by one pass."""
        if self._whole is None:
            self._called = []
            try:
                with torch.no_grad():
                    self._evaluate(self.mean, x[:1])
                called, y = self._called, self._outputs
            finally:
                self._called = self._outputs = None
            assert y is not None
            names = {m: n for n, m in self._network[0].named_modules()}
            if not any(part is self._last[0] for part, _, _ in called):
                raise UsageError(
                    f"method.layer = {self.layer!r}: the forward pass does not call it"
                )
            last, _, outputs = called[-1]
            if last is not self._last[0] and not self._chosen:
                raise UsageError(
                    f"method 'last_layer': {self.layer!r} is the module's last nn.Linear, but the "
                    f"forward pass calls {names[last]!r} after it; say which by method.layer"
                )
            once = sum(part is self._last[0] for part, _, _ in called) == 1
            same = outputs.data_ptr() == y.data_ptr() and outputs.shape == y.shape
            self._whole = once and same and last is self._last[0]
        return self._whole

    def _keep(self, network: nn.Module, inputs: tuple[Any, ...], outputs: Tensor) -> None:
        if self._called is not None:
            self._outputs = outputs

    def _hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self._called is not None:
            self._called.append((module, inputs[0], output))
