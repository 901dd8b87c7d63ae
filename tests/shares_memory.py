"""Peak memory of the ranks of a sample group above their start, in units of all weights.

    mpirun -n 4 python tests/shares_memory.py {false,weights} [WIDTH]

Training, prediction and what is found out before either are in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from hpcsamp import heap
from hpcsamp.collectives import Collectives, SampleGroup, choose, distribute, updates_of
from hpcsamp.grid import Topology, init
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import MeanField, gathering, sharing
from hpcsamp.runtime import mpi


def run(width: int, mode: str, grid: Topology, c: Collectives) -> int:
    """Two steps and a prediction; numbers of a vector."""
    torch.manual_seed(0)
    x, y = torch.randn(4, width), torch.zeros(4, dtype=torch.long)
    layers = [part for _ in range(3) for part in (nn.Linear(width, width, bias=False), nn.Tanh())]
    method = MeanField(nn.Sequential(*layers, nn.Linear(width, 2)), samples_per_pass=1)
    if mode == "weights":
        method.share_out(SampleGroup(c))
    updates = updates_of(method, c)
    adam = torch.optim.Adam(updates.parts, 1e-3, fused=True)
    optimizer = distribute(adam, c, method, updates=updates)
    loss = ELBO(ExpectedNLL(Categorical()), 100, c, memory="stream")
    for _ in range(2):
        loss(method, x, y, samples=2 * grid.sample_size).backward()
        optimizer.step()
        optimizer.zero_grad()
    with method.predicting(), torch.no_grad():
        method(x, grid.samples(2 * grid.sample_size))
    return method.drawn_numbers


def mib(key: str) -> float:
    """An entry of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def main() -> None:
    mode, width = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    sharing.STRETCH = gathering.STRETCH = 1 << 17
    heap.keep()
    world = mpi().COMM_WORLD
    grid = init(world.size)
    c = choose(grid, "mpi")
    run(8, mode, grid, c)  # what is imported and started
    before = mib("VmRSS")
    n = run(width, mode, grid, c)
    peaks = world.gather((mib("VmHWM") - before) * 2**20 / (4 * n))
    if peaks is not None:
        print(max(peaks))


main()
