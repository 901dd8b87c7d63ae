"""Laplace's approximation: a normal distribution around trained weights, from the loss's curvature.

    w = w_trained + (H + tau I)^(-1/2) z,        z standard normal

H is the generalised Gauss-Newton matrix of the negative log likelihood, tau the prior precision.
Other weights keep their trained values. Where more than the last layer has a posterior, outputs are
those of the network linearised in its weights, ``f(w_trained) + J (w - w_trained)``: H is the exact
curvature of that model, and draws in the network itself are known to fit badly (Immer et al. 2021).
(MacKay 1992; Ritter et al. 2018; Daxberger et al. 2021.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpcsamp.methods.curvature import Curvature
from hpcsamp.methods.mean_field import MeanField


class Laplace(MeanField):
    """Predicts with draws around trained weights; it is fitted after training, not trained.

    Parameters
    ----------
    module
        The network with its trained weights.
    curvatures
        Curvature of each layer by its name; the layer's weights are a matrix whose last column is
        the bias, if it has one.
    precision
        Prior precision tau, greater than 0.
    linear
        Whether predictions are those of the linearised network.
    others
        See :class:`~hpcsamp.methods.mean_field.MeanField`.

    Attributes
    ----------
    mean, log_std
        Trained weights, and the logarithm of their marginal posterior standard deviations.
    """

    in_parts = False

    def __init__(
        self,
        module: nn.Module,
        curvatures: Mapping[str, Curvature],
        precision: float,
        *,
        linear: bool = True,
        **others: Any,
    ) -> None:
        self._layers = {f"{name}." if name else "": of for name, of in curvatures.items()}
        drawn = {f"{start}{part}" for start in self._layers for part in ("weight", "bias")}
        super().__init__(
            module, prior_std=precision**-0.5, bayesian=lambda name: name in drawn, **others
        )
        self.precision = precision
        self.linear = linear
        self.layers = list(curvatures)
        stds = self.log_std.data.new_empty(1, len(self.log_std))
        for start, of in self._layers.items():
            self._put(stds, start, of.variances(precision).sqrt().log()[None])
        self.log_std.data.copy_(stds[0])

    def network_of(self, sample: int) -> nn.Module | None:
        """See :meth:`Method.network_of`; a draw of a linearised network is no set of weights."""
        return None if self.linear else super().network_of(sample)

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
        if not (self.linear and self.in_prediction):
            return super().forward(x, samples, step, stacked=stacked, index=index)
        layout = self.variables.random
        values = layout.named(self.mean.detach())
        trained = {name: value.clone().requires_grad_() for name, value in values.items()}
        names = list(trained)
        outputs = []
        # J d by two backward passes: J' u is linear in u, and its gradient times d is J d
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
            for n, sample in enumerate(samples):
                if stacked or not n:
                    y = torch.func.functional_call(self.module, trained, (x[n] if stacked else x,))
                    u = torch.zeros_like(y, requires_grad=True)
                    back = torch.autograd.grad(
                        y, [trained[name] for name in names], u, create_graph=True
                    )
                moved = layout.named(
                    (self.draw(0, range(sample, sample + 1))[0] - self.mean).detach()
                )
                d = [moved[name] for name in names]
                (change,) = torch.autograd.grad(back, u, d, retain_graph=True)
                outputs.append((y + change).detach())
        return torch.stack(outputs)

    def draw(self, step: int, samples: range, std: Tensor | None = None) -> Tensor:
        """Return ``(k, n)`` weights of some samples."""

        def drawn() -> Tensor:
            noise = self.noise(step, samples)
            moved = torch.empty_like(noise)
            for start, of in self._layers.items():
                matrix = self._matrix(noise, start).double()
                self._put(moved, start, of.draw(matrix, self.precision))
            return self.mean + moved

        return self.kept_draw((step, samples, self.in_prediction), drawn)

    def _matrix(self, rows: Tensor, start: str) -> Tensor:
        """Return the weights ``(k, o, i)`` of a layer from flat weights ``(k, n)``."""
        of = self.variables.random.named(rows)
        weight = of[f"{start}weight"].flatten(2)
        bias = of.get(f"{start}bias")
        return weight if bias is None else torch.cat([weight, bias[..., None]], 2)

    def _put(self, rows: Tensor, start: str, matrix: Tensor) -> None:
        """Write the weights ``(k, o, i)`` of a layer to flat weights ``(k, n)``."""
        of = self.variables.random.named(rows)
        weight = of[f"{start}weight"]
        columns = weight[0, 0].numel()
        weight.copy_(matrix[..., :columns].reshape(weight.shape))
        if f"{start}bias" in of:
            of[f"{start}bias"].copy_(matrix[..., columns])
