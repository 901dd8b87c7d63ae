"""Train networks with state on a grid of ranks and on one process; report the worst differences.

See :mod:`on_grids`.
"""

from __future__ import annotations

import torch
from on_grids import N, S, apart, items_of, main, train, trained_apart
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from hpcsamp.collectives import Alone
from hpcsamp.losses import ExpectedNLL, PredictiveNLL
from hpcsamp.methods import SWAG, Ensemble, LastLayer, MCDropout, MeanField

X = torch.randn(N, 2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = X.mean((1, 2, 3)).gt(0).long()


class Residual(nn.Module):
    """A block whose normalisation is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(self.norm(x))))


class Seen(nn.Module):
    """Keeps a running mean of its inputs, and the number of steps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x):
        y = x + 0.1 * self.mean[:, None, None]
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
            self.steps += 1
        return y


def resnet(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        Residual(),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4, momentum=None, affine=False),
        nn.Linear(4, 2),
    ).double()


class Standardised(nn.Conv2d):
    """Applies batch normalisation to its weights, and to the outputs of each item separately."""

    def __init__(self, *sizes):
        super().__init__(*sizes, bias=False)
        self.gain = nn.Parameter(torch.ones(sizes[1]))

    def forward(self, x):
        rows = self.weight.reshape(1, len(self.weight), -1)
        rows = F.batch_norm(rows, None, None, self.gain, training=True, momentum=0.0)
        y = F.conv2d(x, rows.view_as(self.weight))
        channels = F.batch_norm(y.reshape(1, -1, *y.shape[2:]), None, None, training=True)
        return channels.view_as(y) + y


def standardised(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    parts = [Standardised(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Standardised(4, 3, 2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(12, 2)).double()


def keeping(seed: int = 1) -> nn.Module:
    """A network with state that it advances itself, once for each sample."""
    torch.manual_seed(seed)
    spectral = nn.utils.parametrizations.spectral_norm
    twice = spectral(nn.Conv2d(4, 4, 1))  # whose state advances twice in a pass
    return nn.Sequential(
        spectral(nn.Conv2d(2, 4, 3)), Seen(), twice, twice, nn.Flatten(), nn.Linear(36, 2)
    ).double()


def dropping(seed: int = 1) -> nn.Module:
    """The same with dropout."""
    *body, head = resnet(seed)
    return nn.Sequential(*body, nn.Dropout(0.3), head)


class Again(nn.Module):
    """A part that is recomputed in the backward pass."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return checkpoint(self.part, x, use_reentrant=False)


def again(net):
    """A network whose middle parts are recomputed in the backward pass."""

    def made(seed: int = 1) -> nn.Module:
        first, *middle, last = net(seed)
        return nn.Sequential(first, *(Again(part) for part in middle), last)

    return made


METHODS = {
    "mean_field": lambda net, own: MeanField(net(), initial_std=0.3),
    "last_layer": lambda net, own: LastLayer(net(), initial_std=0.3),
    "ensemble": lambda net, own: Ensemble(net, S, own),
    "mc_dropout": lambda net, own: MCDropout(net()),
    "swag": lambda net, own: SWAG(net, S, own, prior_std=1.0),
}
#: Network, method, loss, memory, samples at once and strategy.
CASES = {
    "stream": (resnet, "mean_field", ExpectedNLL, "stream", 1, "loop"),
    "keep": (resnet, "mean_field", PredictiveNLL, "keep", 2, "batched"),
    "recompute": (resnet, "mean_field", PredictiveNLL, "recompute", 2, "vmap"),
    "all at once": (resnet, "mean_field", PredictiveNLL, "keep", 5, "vmap"),
    "mc_dropout": (dropping, "mc_dropout", PredictiveNLL, "keep", 5, "auto"),
    "last layer": (resnet, "last_layer", PredictiveNLL, "keep", 5, "auto"),
    "ensemble": (resnet, "ensemble", ExpectedNLL, "stream", 2, "batched"),
    "swag": (resnet, "swag", ExpectedNLL, "keep", 1, "loop"),
    "again": (again(resnet), "mean_field", PredictiveNLL, "keep", 2, "batched"),
    "standardised": (standardised, "mean_field", PredictiveNLL, "keep", 2, "auto"),
    "state": (keeping, "mean_field", PredictiveNLL, "recompute", 2, "auto"),
    "state of members": (again(keeping), "ensemble", ExpectedNLL, "stream", 1, "auto"),
}


def trained(case, c, own, cut=(0, N)):
    """Losses, and the method after some steps with the items of a data group."""
    net, method, loss, memory, chunk, strategy = CASES[case]
    made = METHODS[method](net, own)
    made.samples_per_pass, made.strategy = chunk, strategy
    losses = train(made, loss, memory, c, X, Y, cut)
    return losses, made


def buffers_of(method):
    """Buffers by sample, or under None where all samples share a module."""
    samples = getattr(method, "members", [None])
    return {s: dict(m.named_buffers()) for s, m in zip(samples, method.networks, strict=True)}


def compared(case, topology, c):
    own = topology.samples(S)
    truth, serial = trained(case, Alone(), range(S))
    losses, method = trained(case, c, own, items_of(c))
    kept = buffers_of(serial)
    return trained_apart(losses, method, truth, serial, own) | {
        "buffers": max(
            apart(v, kept[s][n]) for s, own in buffers_of(method).items() for n, v in own.items()
        ),
    }


if __name__ == "__main__":
    main(CASES, compared)
