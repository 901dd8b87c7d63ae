"""Cases trained on a grid of ranks and on one process: the worst differences.

A file of cases ends by :func:`main`, and ``python FILE GRID...`` then prints, for each grid
(``samples`` of :func:`hs.init`), each case and each quantity, the largest relative difference over
the ranks, as JSON.
"""

from __future__ import annotations

import json
import sys

import torch

import hpcsamp as hs
from hpcsamp.collectives import distribute
from hpcsamp.losses import ELBO, Categorical

#: Items, weight samples (uneven on two ranks), and steps.
N, S, STEPS = 8, 5, 3


def train(method, loss, memory, c, x, y, cut=(0, N)):
    """Losses of some steps with the items of a data group."""
    optimizer = distribute(torch.optim.SGD(method.parameters(), 0.1), c, method)
    elbo = ELBO(loss(Categorical()), N, c, memory=memory)
    part = slice(*cut)
    losses = []
    for _ in range(STEPS):
        index = torch.arange(N)[part]
        value = elbo(method, x[part], y[part], samples=S, count=N / c.data_size, index=index)
        value.backward()
        losses.append(c.mean_over_data(value))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def items_of(c):
    """First item of a data group, and that behind its last: uneven shares."""
    cut = ([0, N], [0, 5, N])[c.data_size - 1]
    return cut[c.data_rank : c.data_rank + 2]


def apart(a, b):
    """Largest difference, relative to the largest value."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))


def trained_apart(losses, method, truth, serial, own):
    """How far losses and weights of this rank's samples are from those of one process."""
    weights = dict(serial.named_variational())
    if hasattr(method, "members"):
        weights = {n: w[own.start : own.stop] for n, w in weights.items()}
    return {
        "loss": max(apart(a, b) for a, b in zip(losses, truth, strict=True)),
        "weights": max(apart(w, weights[n]) for n, w in method.named_variational()),
    }


def main(cases, compared):
    """Print what ``compared(case, topology, collectives)`` finds on the grids of the command."""
    found = {}
    for grid in sys.argv[1:]:
        topology = hs.init(int(grid) if grid.isdigit() else grid)
        c = hs.choose(topology, "mpi")
        for case in cases:
            everyone = topology.world.allgather(compared(case, topology, c))
            worst = {k: max(one[k] for one in everyone) for k in everyone[0]}
            found |= {f"{grid} {case} {k}": v for k, v in worst.items()}
    if topology.rank == 0:
        sys.stdout.write(json.dumps(found))
