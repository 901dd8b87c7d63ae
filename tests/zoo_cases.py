"""Train every network of the zoo by several methods on the grid of this job; rank 0 writes results.

    mpirun -n N python tests/zoo_cases.py SAMPLES FILE [NETWORK ...]

SAMPLES is what the sample axis spans, see :func:`hpcsamp.init`. A result is what is compared
between grids, or the line by which the network was refused.
"""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import torch
import zoo

import hpcsamp as hs
from hpcsamp.collectives import distribute
from hpcsamp.errors import UsageError
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL, PredictiveNLL
from hpcsamp.methods import SWAG, Ensemble, MCDropout, MeanField

S, PREDICT, STEPS = 4, 6, 4
span = sys.argv[1]
TOPOLOGY = hs.init(span if span in ("none", "world", "node") else int(span))
C = hs.choose(TOPOLOGY, "mpi")
OWN = TOPOLOGY.samples(S)


def mean_field(name: str) -> Any:
    return MeanField(zoo.make(name)[0], prior_std=1.0, initial_std=0.05, seed=1, samples_per_pass=2)


def ensemble(name: str) -> Any:
    return Ensemble(lambda s: zoo.make(name, seed=2 + s)[0], S, OWN, prior_std=1.0, seed=1)


def swag(name: str) -> Any:
    return SWAG(lambda s: zoo.make(name, seed=2 + s)[0], S, OWN, start=0.0, every=1, rank=2, seed=1)


def mc_dropout(name: str) -> Any:
    return MCDropout(zoo.make(name)[0], seed=1)


METHODS = {f.__name__: f for f in (mean_field, ensemble, swag, mc_dropout)}


class Training:
    """A method under training by a loop of one's own."""

    def __init__(self, name: str, kind: str) -> None:
        self.method = METHODS[kind](name)
        optimizer = torch.optim.SGD(self.method.parameters(), lr=0.02, momentum=0.9)
        self.optimizer = distribute(optimizer, C, self.method)
        data_loss = (PredictiveNLL if kind == "mean_field" else ExpectedNLL)(Categorical())
        self.loss = ELBO(data_loss, 10**5, C)
        self.method.begin(10**5, STEPS, STEPS)
        x = zoo.make(name)[1]
        y = torch.arange(len(x)) % zoo.OUTPUTS
        rows = torch.arange(len(x)).chunk(TOPOLOGY.data_size)[TOPOLOGY.data_rank]
        self.x, self.batch, self.index = x, (x[rows], y[rows]), rows

    def take(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            value = self.loss(self.method, *self.batch, samples=S, index=self.index)
            value.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total = value.detach().double().reshape(1).numpy().copy()
            losses.append(float(TOPOLOGY.data_comm.allreduce(total)[0]) / TOPOLOGY.data_size)
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
        m = self.method
        count = m.prediction_samples(PREDICT if m.draws_weights or type(m) is MCDropout else None)
        mine = m.prediction_share(count, TOPOLOGY.sample_size, TOPOLOGY.sample_rank)
        with torch.no_grad(), m.predicting():
            index = torch.arange(len(self.x))[items]
            own = m(self.x[items], samples=mine, step=0, index=index)
        return torch.cat(TOPOLOGY.sample_comm.allgather(own))


def result(name: str, kind: str) -> dict[str, Any]:
    training = Training(name, kind)
    losses = training.take(2)
    state = training.state()
    losses += training.take(2)
    final = training.state()
    # in another process it would be another object; to make one costs as much as the training
    again = Training(name, kind) if TOPOLOGY.size == 1 else training
    again.go_on(state)
    again.take(2)
    same = _equal(final[0], again.state()[0])
    whole = training.predicted(slice(0, 8))
    parts = torch.cat([training.predicted(slice(0, 3)), training.predicted(slice(3, 8))], 1)
    kept = training.method.placement.gather(training.method.state_dict(), TOPOLOGY)
    return {
        "losses": losses,
        "outputs": whole,
        "of_batch": float((whole - parts).abs().max() / whole.abs().max()),
        "resumed": same,
        "state": kept,
    }


def _equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k]
        for k, v in one.items()
    )


def main(path: str, names: list[str]) -> None:
    found: dict[tuple[str, str], Any] = {}
    for name in names or zoo.NETWORKS:
        for kind in METHODS:
            try:
                found[name, kind] = result(name, kind)
            except UsageError as e:
                found[name, kind] = str(e)
            except Exception as e:
                line = (str(e).splitlines() or [""])[0]
                found[name, kind] = f"CRASH {type(e).__name__}: {line[:300]}"
                if TOPOLOGY.size > 1:  # others may wait
                    print(name, kind, found[name, kind], flush=True)
                    raise
    if TOPOLOGY.is_root:
        torch.save(found, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    main(sys.argv[2], sys.argv[3:])
