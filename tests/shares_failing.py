"""One rank's layer raises in the middle of a step with sharded weights.

mpirun -n 2 python tests/shares_failing.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpcsamp.collectives import SampleGroup, choose, distribute, updates_of
from hpcsamp.grid import init
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL
from hpcsamp.methods import MeanField, gathering, sharing


class Failing(nn.Module):
    """Raises at its second pass after it is armed, while the other rank is in an exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("this layer has failed")
        return x


def main() -> None:
    sharing.STRETCH = gathering.STRETCH = 64
    grid = init(2)
    c = choose(grid, "mpi")
    torch.manual_seed(0)
    layer = Failing()
    network = nn.Sequential(nn.Linear(20, 30), layer, nn.Tanh(), nn.Linear(30, 3))
    method = MeanField(network, samples_per_pass=1)
    method.share_out(SampleGroup(c))
    updates = updates_of(method, c)
    adam = torch.optim.Adam(updates.parts, 1e-2)
    optimizer = distribute(adam, c, method, updates=updates)
    loss = ELBO(ExpectedNLL(Categorical()), 10, c, memory="stream")
    x, y = torch.randn(4, 20), torch.zeros(4, dtype=torch.long)
    for step in range(3):
        if step == 2 and grid.rank == 1:
            layer.left = 1
        loss(method, x, y, samples=8).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
