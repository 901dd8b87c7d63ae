"""Generalised Gauss-Newton matrices of layers, summed over batches of items.

The Hessian of an item's negative log likelihood in its outputs has a square root S ``(O, R)``. One
backward pass for each column r gives the gradient g of ``S[:, r]' y`` at the outputs of a layer;
with the layer's inputs a, the matrix of the layer is a sum over items, columns and positions:

- full: ``J' J`` with ``J = sum_t g_t a_t'`` of each item and column;
- Kronecker: ``A = sum a a'``, ``G = mean g g'`` over items and positions (Martens and Grosse 2015;
  positions as items, the "expand" form of Eschenhagen et al. 2023);
- diagonal: the squares of J.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.losses import Gaussian, Likelihood
from hpcsamp.losses.labels import Bernoulli, Categorical
from hpcsamp.methods.curvature import Curvature, Diagonal, Full, Kronecker
from hpcsamp.methods.layers_seen import Recorded, inputs_of, outputs_of, recording

KINDS = ("last", "last_kron", "kron", "diag")
"""Kinds of curvature: full or Kronecker-factored for the last layer, Kronecker-factored or
diagonal for all layers."""
MOST = 8192
"""Largest number of weights of a layer whose full matrix is computed (it takes 0.5 GB)."""


class GaussNewton:
    """Sums of the Gauss-Newton matrices of a network's layers.

    Parameters
    ----------
    network
        The network in evaluation mode; its parameters are set to need no gradients.
    call
        Evaluates it: ``(B, ...)`` inputs to ``(B, ...)`` outputs.
    kind
        One of :data:`KINDS`.
    likelihood
        Observation model.
    x
        Some items, with which the layers are found.

    Attributes
    ----------
    layers
        Layers with a matrix, by name.

    Raises
    ------
    UsageError
        If the outputs are not those of a last linear layer, no layer has a matrix, or the
        likelihood has no Gauss-Newton matrix here.
    """

    def __init__(
        self,
        network: nn.Module,
        call: Callable[[Any], Tensor],
        kind: str,
        likelihood: Likelihood,
        x: Any,
    ) -> None:
        if kind not in KINDS:
            raise UsageError(f"--kind {kind}: choose from {', '.join(KINDS)}")
        self._root = _root_of(likelihood)
        self.likelihood, self.kind = likelihood, kind
        self._call = call
        trained = {id(p) for p in network.parameters() if p.requires_grad}
        possible = _layers(network, trained)
        with torch.no_grad(), recording(possible) as (found, calls):
            y = call(x)
        once = {name: possible[name] for name in found if calls[name] == 1}
        self.layers = _last(network, once, found, y) if kind.startswith("last") else once
        if not self.layers:
            raise UsageError(
                f"{type(network).__name__} has no trainable nn.Linear or nn.Conv2d of its own that "
                f"its forward pass calls once"
            )
        self.shapes = {name: _shape(of) for name, of in self.layers.items()}
        o, i = next(iter(self.shapes.values()))
        if kind == "last" and o * i > MOST:
            raise UsageError(
                f"the last layer has {o * i} weights, more than the {MOST} of a whole matrix; "
                f"choose --kind last_kron"
            )
        for p in network.parameters():
            p.requires_grad_(False)
        device = y.device
        sizes = {name: self._sizes(o, i) for name, (o, i) in self.shapes.items()}
        total = sum(a * b for each in sizes.values() for a, b in each)
        #: All sums, one vector for one exchange; the last two are the log likelihood and the items.
        self.flat = torch.zeros(total + len(sizes) + 1, dtype=torch.float64, device=device)
        self._sums: dict[str, list[Tensor]] = {}
        at = 0
        for name, each in sizes.items():
            self._sums[name] = []
            for a, b in each:
                self._sums[name].append(self.flat[at : at + a * b].view(a, b))
                at += a * b
        self._counts = self.flat[at:]

    def _sizes(self, o: int, i: int) -> list[tuple[int, int]]:
        if self.kind == "last":
            return [(o * i, o * i)]
        return [(o, i)] if self.kind == "diag" else [(o, o), (i, i)]

    def add(self, x: Any, target: Tensor, weight: Tensor) -> None:
        """Add the items of a batch: inputs, targets and item weights ``(B,)``."""
        with recording(self.layers) as (found, _):
            y = self._call(x)
        flat = y.flatten(1)
        with torch.no_grad():
            root = self._root(flat) * weight.to(flat).clamp_min(0).sqrt()[:, None, None]
            density = self.likelihood.log_prob(y[None], target)[0].double()
            self._counts[-1] += (density * weight).sum()
        outputs = [found[name][1] for name in self.layers]
        columns = root.shape[2]
        inputs = {n: inputs_of(of, found[n][0]).double() for n, of in self.layers.items()}
        for n, layer in enumerate(self.layers):
            a, here = inputs[layer], weight > 0
            self._counts[n] += float(here.sum() * a.shape[1])
            if self.kind in ("last_kron", "kron"):
                kept = (
                    a[here].flatten(0, 1)
                    * weight[here].sqrt().double()[:, None].repeat(1, a.shape[1]).flatten()[:, None]
                )
                self._sums[layer][1] += kept.T @ kept
        for r in range(columns):
            value = (flat * root[:, :, r]).sum()
            each = torch.autograd.grad(
                value, outputs, retain_graph=r + 1 < columns, materialize_grads=True
            )
            for (name, layer), g in zip(self.layers.items(), each, strict=True):
                self._add(name, outputs_of(layer, g).double(), inputs[name], weight)

    def _add(self, name: str, g: Tensor, a: Tensor, weight: Tensor) -> None:
        sums = self._sums[name]
        if self.kind in ("last_kron", "kron"):
            # the weight of an item is that of its inputs: here its gradients have none
            own = torch.where(weight > 0, weight, 1).sqrt().double()[:, None, None]
            rows = (g / own).flatten(0, 1)
            sums[0] += rows.T @ rows
            return
        jacobian = g.transpose(1, 2) @ a  # (B, o, i)
        if self.kind == "diag":
            sums[0] += jacobian.square().sum(0)
        else:
            rows = jacobian.flatten(1)
            sums[0] += rows.T @ rows

    @property
    def log_likelihood(self) -> float:
        """Sum of the items' log densities at the trained weights."""
        return float(self._counts[-1])

    def curvatures(self) -> dict[str, Curvature]:
        """Curvature of each layer, from the sums."""
        made: dict[str, Curvature] = {}
        for n, (name, sums) in enumerate(self._sums.items()):
            own = [s.cpu().clone() for s in sums]
            if self.kind == "last":
                made[name] = Full(own[0], torch.tensor(self.shapes[name]))
            elif self.kind == "diag":
                made[name] = Diagonal(own[0])
            else:
                made[name] = Kronecker(own[0] / self._counts[n].cpu().clamp_min(1), own[1])
        return made


def check_probit(likelihood: Likelihood) -> None:
    """Refuse the probit approximation where outputs are not logits.

    Raises
    ------
    UsageError
        Naming the likelihood.
    """
    if type(likelihood) not in (Categorical, Bernoulli):
        raise UsageError(
            f"--predictive probit is for labels of one class or of several; this run has "
            f"{type(likelihood).__name__}, choose samples"
        )


def _layers(network: nn.Module, trained: set[int]) -> dict[str, Any]:
    owners: dict[int, int] = {}
    for module in network.modules():
        for p in module.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    return {
        name: of
        for name, of in network.named_modules()
        if (type(of) is nn.Linear or _is_plain(of))
        and all(id(p) in trained and owners[id(p)] == 1 for p in of.parameters())
    }


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose inputs can be unfolded."""
    if type(layer) is not nn.Conv2d or layer.groups != 1 or layer.padding_mode != "zeros":
        return False
    return not isinstance(layer.padding, str)


def _last(
    network: nn.Module, layers: Mapping[str, Any], found: Recorded, y: Tensor
) -> dict[str, Any]:
    name = next((n for n in reversed(list(found)) if type(layers.get(n)) is nn.Linear), None)
    if name is None or not torch.equal(found[name][1].flatten(1), y.flatten(1)):
        raise UsageError(
            f"the outputs of {type(network).__name__} are not those of a last trainable nn.Linear, "
            f"so that there is no last-layer posterior; choose --kind kron or diag"
        )
    return {name: layers[name]}


def _shape(layer: Any) -> tuple[int, int]:
    return len(layer.weight), layer.weight[0].numel() + (layer.bias is not None)


def _root_of(likelihood: Likelihood) -> Callable[[Tensor], Tensor]:
    """Function from outputs ``(B, O)`` to square roots ``(B, O, R)`` of the output Hessians."""
    noise = getattr(likelihood, "label_noise", 0)
    if type(likelihood) is Categorical and not noise:

        def root(y: Tensor) -> Tensor:
            p = y.softmax(1)
            return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]

    elif type(likelihood) is Bernoulli and not noise:

        def root(y: Tensor) -> Tensor:
            return torch.diag_embed((y.sigmoid() * (-y).sigmoid()).sqrt())

    elif isinstance(likelihood, Gaussian):
        std = likelihood.std

        def root(y: Tensor) -> Tensor:
            return (
                torch.eye(y.shape[1], dtype=y.dtype, device=y.device).expand(len(y), -1, -1) / std
            )

    else:
        raise UsageError(
            f"Laplace needs a likelihood whose Gauss-Newton matrix is known: labels of one class "
            f"or of several (without label noise), or values with a Gaussian of fixed or fitted "
            f"width; this run has {type(likelihood).__name__}"
        )
    return root
