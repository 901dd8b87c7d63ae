"""Train a network with random layers on a grid and on one process; report the worst differences.

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
from hpcsamp.methods import METHODS

X = torch.randn(N, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = X.mean(1).gt(0).long()


class Draws(nn.Module):
    """Dropout of many kinds, noise, and branches and layers that are dropped as a whole."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(4, 2, 0.2, batch_first=True)
        self.recurrent = nn.GRU(4, 4, 2, dropout=0.3)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.RReLU(), nn.AlphaDropout(0.2))
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        x = self.up(F.dropout(x, 0.1, self.training)).unflatten(1, (2, 4))
        branch = self.attention(x, x, x)[0]
        if self.training:
            branch = branch * x.new_empty(len(x), 1, 1).bernoulli_(0.7) / 0.7
            x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.randn(4, dtype=x.dtype)
        x = x + branch
        x = x + self.recurrent(x.transpose(0, 1))[0].transpose(0, 1)
        if torch.is_grad_enabled():
            return self.last((x + checkpoint(self.block, x, use_reentrant=False)).flatten(1))
        return self.last((x + self.block(x)).flatten(1))


#: Method, its arguments, loss, memory, samples at once and strategy.
CASES = {
    "stream": ("mean_field", {}, ExpectedNLL, "stream", 1, "loop"),
    "keep": ("mean_field", {}, PredictiveNLL, "keep", 2, "batched"),
    "recompute": ("mean_field", {"antithetic": True}, PredictiveNLL, "recompute", 2, "auto"),
    "last layer": ("last_layer", {}, PredictiveNLL, "keep", 5, "auto"),
    "ensemble": ("ensemble", {}, ExpectedNLL, "stream", 2, "batched"),
    "swag": ("swag", {}, ExpectedNLL, "keep", 1, "loop"),
    "masks": ("mc_dropout", {}, PredictiveNLL, "keep", "auto", "auto"),
    "masks of items": ("mc_dropout", {"masks": "item"}, ExpectedNLL, "stream", 2, "batched"),
}


def trained(case, c, own, cut=(0, N)):
    """Losses and predictions of a method after some steps with the items of a data group."""
    name, arguments, loss, memory, chunk, strategy = CASES[case]
    made = METHODS[name].create(
        lambda s: Draws(1 if s is None else s).double(), S, own, **arguments
    )
    made.samples_per_pass, made.strategy = chunk, strategy
    losses = train(made, loss, memory, c, X, Y, cut)
    made.prediction_share(S, c.sample_size, c.sample_rank)
    with torch.no_grad(), made.predicting():
        index = torch.arange(N)[slice(*cut)]
        return losses, made(X[slice(*cut)], samples=own, index=index), made


def compared(case, topology, c):
    own, cut = topology.samples(S), items_of(c)
    truth, predicted, serial = trained(case, Alone(), range(S))
    losses, part, method = trained(case, c, own, cut)
    return trained_apart(losses, method, truth, serial, own) | {
        "predictions": apart(part, predicted[own.start : own.stop, slice(*cut)]),
    }


if __name__ == "__main__":
    main(CASES, compared)
