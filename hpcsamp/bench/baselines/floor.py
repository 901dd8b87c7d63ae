"""Lower bound of mean-field VI on a multilayer perceptron in torch, without any framework."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from hpcsamp.bench.baselines import feed
from hpcsamp.bench.baselines.network import Training, network, optimizer
from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology
from hpcsamp.models.mlp import ACTIVATIONS
from hpcsamp.run.kind import kind_of


class FloorBaseline(nn.Module):
    """Normal distributions of all weights in two flat tensors; evaluates all samples at once.

    Parameters
    ----------
    layers
        Linear layers, whose weights are the initial means.
    activation
        Activation between the layers.
    prior_std, initial_std
        Standard deviations of the prior ``N(0, prior_std)`` and of the initial posterior.
    """

    def __init__(
        self, layers: list[nn.Linear], activation: nn.Module, prior_std: float, initial_std: float
    ) -> None:
        super().__init__()
        self.activation, self.prior_std = activation, prior_std
        self.shapes = [(layer.in_features, layer.out_features) for layer in layers]
        self.sizes = list(itertools.chain(*((a * b, b) for a, b in self.shapes)))
        parts = [p.detach().t().flatten() for layer in layers for p in (layer.weight, layer.bias)]
        self.mean = nn.Parameter(torch.cat(parts))
        self.log_std = nn.Parameter(torch.full_like(self.mean, math.log(initial_std)))

    def outputs(self, x: Tensor, samples: int) -> Tensor:
        """Return ``(S, B, outputs)``, with one noise call and one ``baddbmm`` per layer."""
        noise = torch.randn(samples, len(self.mean))
        weights = torch.addcmul(self.mean, self.log_std.exp(), noise).split(self.sizes, 1)
        h = x.expand(samples, *x.shape)
        last = len(self.shapes) - 1
        for layer, (rows, columns) in enumerate(self.shapes):
            weight = weights[2 * layer].view(samples, rows, columns)
            h = torch.baddbmm(weights[2 * layer + 1][:, None], h, weight)
            h = h if layer == last else self.activation(h)
        return h

    def divergence(self) -> Tensor:
        """KL from the prior in nats, by its formula."""
        second = self.mean.square() + (2 * self.log_std).exp()
        nats = second / (2 * self.prior_std**2) - self.log_std + (math.log(self.prior_std) - 0.5)
        return nats.sum()


def eager(config: RunConfig, topology: Topology) -> Training:
    """Lower bound of mean field on an MLP: one baddbmm per layer, always on the same batch."""
    if config.method.name != "mean_field" or config.model.name != "mlp":
        raise UsageError(
            f"eager_floor is mean_field on mlp, not {config.method.name} on {config.model.name}"
        )
    net = network(config, torch.device("cpu"))
    layers = [part for part in net.modules() if isinstance(part, nn.Linear)]
    activation = ACTIVATIONS[str(config.model.arguments.get("activation", "relu"))]()
    given = config.method.arguments
    prior, initial = given.get("prior_std", 0.2), given.get("initial_std", 0.02)
    floor = FloorBaseline(layers, activation, float(prior), float(initial))
    update = optimizer(config, floor.parameters())
    x, y = next(feed.batches(config, torch.device("cpu")))
    x, items, samples = x.flatten(1), feed.size(config.data.path), config.method.samples
    classes = kind_of(config) == "classification"
    target = y.repeat(samples) if classes else y.flatten(1).expand(samples, len(y), -1)

    def step() -> None:
        out = floor.outputs(x, samples)
        if classes:
            data = nn.functional.cross_entropy(out.flatten(0, 1), target)
        else:
            data = (out - target).square().sum() / (2 * samples * len(x))
        (data + floor.divergence() / items).backward()
        update.step()
        update.zero_grad()

    return Training(floor, step)
