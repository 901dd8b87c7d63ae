"""Variational inference on the last layer only; the body is deterministic.

    y_s = h(x) W_s^T + b_s,        (W_s, b_s) = mean + exp(log_std) * eps_s

(Kristiadi et al. 2020, who explain why this can be enough; Brosse et al. 2020.) For a chunk of
samples the body is evaluated once and the last layer is one product, so all samples of a rank are
one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.base import Method
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.methods.passing import ALL
from hpcsamp.methods.priors import Kind
from hpcsamp.models import Wrapping
from hpcsamp.weights import Passes
from hpcsamp.weights.pieces import parts_in


class LastLayer(MeanField):
    """Mean-field normal posterior over an ``nn.Linear`` at the end of a module.

    Parameters
    ----------
    module
        A plain ``nn.Module``.
    layer
        Name of the layer, e.g. ``head``. Default: the last ``nn.Linear`` in the order of the
        module, which must also be the last one that the forward pass calls.
    prior_mean, prior_std, prior, initial_std, scale_std, antithetic, autocast
        See :class:`~hpcsamp.methods.mean_field.MeanField`.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`; the body is evaluated once for each chunk.

    Raises
    ------
    UsageError
        If there is no such layer, or, at the first call, if it is not the last one called.
    """

    usual = Passes(ALL)

    def __init__(
        self,
        module: nn.Module,
        *,
        layer: str | None = None,
        prior_mean: float = 0.0,
        prior_std: float = 0.2,
        prior: Kind = "normal",
        initial_std: float = 0.02,
        scale_std: bool = False,
        antithetic: bool = False,
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        wrapper = module if isinstance(module, Wrapping) else None
        network = module if wrapper is None else wrapper.network
        linear = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
        named = {n: m for n, m in linear.items() if type(m) is nn.Linear}
        if not named:
            if not all(part.is_whole for part in parts_in(network).values()):
                Method.pieces(self)  # raises the error
            raise UsageError(f"method 'last_layer': {type(network).__name__} has no nn.Linear")
        if layer is not None and layer not in named:
            raise UsageError(f"method.layer = {layer!r}; choose from {', '.join(map(repr, named))}")
        name = list(named)[-1] if layer is None else layer
        start = ("network." if wrapper is not None else "") + (f"{name}." if name else "")
        trained = {n for n, p in module.named_parameters() if p.requires_grad}
        if not {f"{start}{n}" for n, _ in named[name].named_parameters()} <= trained:
            raise UsageError(
                f"method.layer = {name!r}: its weights are frozen or shared with another layer; "
                f"they must be trainable and its own"
            )
        super().__init__(
            module,
            prior_mean=prior_mean,
            prior_std=prior_std,
            prior=prior,
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
        self._last = [named[name]]  # in a list, so that it is not registered
        self._linear: dict[nn.Module, str] = {part: n for n, part in linear.items()}
        self._called: list[nn.Module] | None = None
        self._checked = False
        for part in linear.values():
            part.register_forward_hook(self._hook)

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
        if not self._checked:
            self._check(x[0] if stacked else x)
            self._checked = True
        return super().forward(x, samples, step, stacked=stacked, index=index)

    def chunks(self, samples: range, stacked: bool = False) -> Iterator[range]:
        """Split samples into chunks: all at once, or one at a time if each has its own inputs."""
        if stacked and self.samples_per_pass == ALL:
            return iter([samples[i : i + 1] for i in range(len(samples))])
        return super().chunks(samples, stacked)

    def _check(self, x: Tensor) -> None:
        """Refuse a layer that the forward pass does not call, or does not call last."""
        called = self._called = []
        try:
            with torch.no_grad():
                values = self.variables.random.named(self.mean[None])
                place = replace(self.place_of(range(1), 0, None), trial=True)
                self._run(self.variables, values, self._fixed_views(), x[:1], 1, False, place)
        finally:
            self._called = None
        if self._last[0] not in called:
            raise UsageError(f"method.layer = {self.layer!r}: the forward pass does not call it")
        if called[-1] is not self._last[0] and not self._chosen:
            raise UsageError(
                f"method 'last_layer': {self.layer!r} is the module's last nn.Linear, but the "
                f"forward pass calls {self._linear[called[-1]]!r} after it; set method.layer to "
                f"one of them"
            )

    def _hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self._called is not None:
            self._called.append(module)
