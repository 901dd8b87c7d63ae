"""Train every network of the zoo by several methods on grids of this job; rank 0 writes results.

    mpirun -n N python tests/zoo_cases.py SAMPLES[,SAMPLES ...] FILE [NETWORK ...]

SAMPLES is what the sample axis of a grid spans, see :func:`hpcsamp.init`. A result is what is
compared between grids, or the line by which the network was refused.
"""

from __future__ import annotations

import copy
import sys
import warnings
from functools import cache
from typing import Any

import torch
import zoo

import hpcsamp as hs
from hpcsamp.collectives import distribute
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL, PredictiveNLL
from hpcsamp.methods import SWAG, Ensemble, MCDropout, MeanField

S, PREDICT, STEPS = 4, 4, 3
Found = dict[tuple[str, str], Any]


class Grid:
    """A layout of the ranks of this job."""

    def __init__(self, span: str) -> None:
        self.topology = hs.init(span if span in ("none", "world", "node") else int(span))
        self.collectives = hs.choose(self.topology, "mpi")
        self.own = self.topology.samples(S)


def mean_field(name: str, own: range) -> Any:
    return MeanField(zoo.make(name)[0], prior_std=1.0, initial_std=0.05, seed=1, samples_per_pass=2)


def ensemble(name: str, own: range) -> Any:
    return Ensemble(lambda s: zoo.make(name, seed=2 + s)[0], S, own, prior_std=1.0, seed=1)


def swag(name: str, own: range) -> Any:
    return SWAG(lambda s: zoo.make(name, seed=2 + s)[0], S, own, start=0.0, every=1, rank=2, seed=1)


def mc_dropout(name: str, own: range) -> Any:
    return MCDropout(zoo.make(name)[0], seed=1)


METHODS = {f.__name__: f for f in (mean_field, ensemble, swag, mc_dropout)}


@cache
def inputs(name: str) -> torch.Tensor:
    return zoo.make(name)[1]


class Training:
    """A method under training by a loop of one's own."""

    def __init__(self, grid: Grid, name: str, kind: str) -> None:
        self.method, self.topology = METHODS[kind](name, grid.own), grid.topology
        optimizer = torch.optim.SGD(self.method.parameters(), lr=0.02, momentum=0.9)
        self.optimizer = distribute(optimizer, grid.collectives, self.method)
        data_loss = (PredictiveNLL if kind == "mean_field" else ExpectedNLL)(Categorical())
        self.loss = ELBO(data_loss, 10**5, grid.collectives)
        self.method.begin(10**5, STEPS, STEPS)
        x = inputs(name)
        y = torch.arange(len(x)) % zoo.OUTPUTS
        rows = torch.arange(len(x)).chunk(self.topology.data_size)[self.topology.data_rank]
        self.x, self.batch, self.index = x, (x[rows], y[rows]), rows

    def take(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            value = self.loss(self.method, *self.batch, samples=S, index=self.index)
            value.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total = value.detach().double().reshape(1).numpy().copy()
            total = self.topology.data_comm.allreduce(total)
            losses.append(float(total[0]) / self.topology.data_size)
        return losses

    def state(self) -> Any:
        return copy.deepcopy(
            (self.method.state_dict(), self.optimizer.state_dict(), self.method.step)
        )

    def go_on(self, state: Any) -> None:
        method, optimizer, self.method.step = copy.deepcopy(state)
        self.method.load_state_dict(method)
        self.optimizer.load_state_dict(optimizer)

    def predicted(self, items: slice) -> torch.Tensor:
        """``(PREDICT, B, outputs)`` of some items on every rank."""
        m, t = self.method, self.topology
        count = m.prediction_samples(PREDICT if m.draws_weights or type(m) is MCDropout else None)
        mine = m.prediction_share(count, t.sample_size, t.sample_rank)
        with torch.no_grad(), m.predicting():
            index = torch.arange(len(self.x))[items]
            own = m(self.x[items], samples=mine, step=0, index=index)
        return torch.cat(t.sample_comm.allgather(own))


def result(grid: Grid, name: str, kind: str) -> dict[str, Any]:
    training, alone = Training(grid, name, kind), grid.topology.size == 1
    losses = training.take(2)
    state = training.state()
    losses += training.take(1)
    final = training.state()
    # in another process it would be another object; to make one costs as much as the training
    again = Training(grid, name, kind) if alone else training
    again.go_on(state)
    again.take(1)
    same = _equal(final[0], again.state()[0])
    whole = training.predicted(slice(0, 8))
    found = {
        "losses": losses,
        "outputs": whole,
        "resumed": same,
        "state": _gathered(training.method, grid),
    }
    if alone:  # the outputs of other grids are compared with these
        parts = torch.cat([training.predicted(slice(0, 3)), training.predicted(slice(3, 8))], 1)
        found["of_batch"] = float((whole - parts).abs().max() / whole.abs().max())
    return found


def _gathered(method: Any, grid: Grid) -> Any:
    """The state of all members on the first rank of each sample group."""
    state = method.state_dict()
    if method.placement.axis is None:
        return state
    ranks = grid.topology.sample_comm.gather(state)
    return ranks and {name: _joined([one[name] for one in ranks]) for name in state}


def _joined(rows: list[Any]) -> Any:
    first = rows[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(rows) if first.dim() else first
    return [row for several in rows for row in several] if isinstance(first, list) else first


def _equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k]
        for k, v in one.items()
    )


def run(grid: Grid, names: list[str]) -> Found:
    found: Found = {}
    for name in names or zoo.NETWORKS:
        for kind in METHODS:
            try:
                found[name, kind] = result(grid, name, kind)
            except UsageError as e:
                found[name, kind] = str(e)
            except Exception as e:
                line = (str(e).splitlines() or [""])[0]
                found[name, kind] = f"CRASH {type(e).__name__}: {line[:300]}"
                if grid.topology.size > 1:  # others may wait
                    print(name, kind, found[name, kind], flush=True)
                    raise
    return found


def main(spans: str, path: str, names: list[str]) -> None:
    found = {}
    for span in spans.split(","):
        grid = Grid(span)
        found[span] = run(grid, names)
    if grid.topology.is_root:
        torch.save(found, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    main(sys.argv[1], sys.argv[2], sys.argv[3:])
