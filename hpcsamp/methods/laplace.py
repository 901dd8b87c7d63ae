"""Laplace's approximation: a normal distribution around trained weights, from the loss's curvature.

    w = w_trained + (H + tau I)^(-1/2) z,        z standard normal

H is the generalised Gauss-Newton matrix of the negative log likelihood, tau the prior precision.
Other weights keep their trained values. Where more than the last layer has a posterior, outputs are
those of the network linearised in its weights, ``f(w_trained) + J (w - w_trained)``: H is the exact
curvature of that model, and draws in the network itself are known to fit badly (Immer et al. 2021).
(MacKay 1992; Ritter et al. 2018; Daxberger et al. 2021.)

The probit approximation needs no draws: logits f with variances v of the linearised network have
about the mean probabilities of ``f / sqrt(1 + pi v / 8)`` (MacKay 1992; for several classes with
the diagonal of the covariance, Gibbs 1997).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpcsamp.methods.curvature import Curvature
from hpcsamp.methods.layers_seen import inputs_of, outputs_of, recording
from hpcsamp.methods.mean_field import MeanField

PREDICTIVES = ("samples", "probit")
"""Approximations of the predictive distribution."""
PORTION = 1 << 24
"""Most numbers of a layer's gradients of the items that are evaluated at once."""


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
    probit
        Whether the outputs are logits whose mean probabilities are predicted without draws: all
        samples are then the same.
    others
        See :class:`~hpcsamp.methods.mean_field.MeanField`.

    Attributes
    ----------
    kind
        Kind of the curvature, for records: see :data:`hpcsamp.prediction.gauss_newton.KINDS`.
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
        probit: bool = False,
        **others: Any,
    ) -> None:
        self._layers = {f"{name}." if name else "": of for name, of in curvatures.items()}
        drawn = {f"{start}{part}" for start in self._layers for part in ("weight", "bias")}
        super().__init__(
            module, prior_std=precision**-0.5, bayesian=lambda name: name in drawn, **others
        )
        self.precision = precision
        self.linear, self.probit = linear, probit
        self.layers = list(curvatures)
        self.kind = ""
        stds = self.log_std.data.new_empty(1, len(self.log_std))
        for start, of in self._layers.items():
            self._put(stds, start, of.variances(precision).sqrt().log()[None])
        self.log_std.data.copy_(stds[0])

    def network_of(self, sample: int) -> nn.Module | None:
        """See :meth:`Method.network_of`; a draw of a linearised network is no set of weights."""
        return None if self.linear or self.probit else super().network_of(sample)

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
        if self.probit and self.in_prediction:
            if stacked:
                return torch.stack([self._scaled(of) for of in x])
            y = self._scaled(x)
            return y.expand(len(samples), *y.shape)
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

    def logit_variances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(B, C)`` outputs at the trained weights, and their variances ``J S J'``."""
        layers = {name: self.module.get_submodule(name) for name in self.layers}
        with torch.enable_grad(), recording(layers) as (found, _):
            y = self.module(x)
            columns = [of.sum() for of in y.flatten(1).T]
        variances = torch.zeros(len(x), len(columns), dtype=torch.float64, device=y.device)
        outputs = [found[name][1] for name in layers]
        inputs = [inputs_of(of, found[name][0]).double() for name, of in layers.items()]
        for c, column in enumerate(columns):
            each = torch.autograd.grad(column, outputs, retain_graph=True, materialize_grads=True)
            for (name, layer), g, a in zip(layers.items(), each, inputs, strict=True):
                of = self._layers[f"{name}." if name else ""]
                rows = outputs_of(layer, g).double().transpose(1, 2)
                size = rows.shape[1] * a.shape[2]
                for part in torch.arange(len(x)).split(max(1, PORTION // size)):
                    scaled = of.draw(rows[part] @ a[part], self.precision)
                    variances[part, c] += scaled.flatten(1).square().sum(1)
        return y.detach(), variances.view_as(y)

    def _scaled(self, x: Tensor) -> Tensor:
        y, variances = self.logit_variances(x)
        return y * (1 + math.pi / 8 * variances).rsqrt().to(y)

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
