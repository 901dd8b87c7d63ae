"""Time the training step against plain passes and torch_blue, interleaved in one run.

All variants do the same work: S samples of one batch, the gradient of the negative ELBO and, except
for the plain passes, which are the lower bound, the optimiser. Plain passes, torch_blue and hpcsamp
on one rank run on rank 0; hpcsamp in sampling mode runs on all ranks. Variants alternate, so that a
drift in the speed of the machine affects all of them equally.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hpcsamp as hs
from hpcsamp.collectives import Alone, Collectives
from hpcsamp.grid import Topology
from hpcsamp.losses import ELBO
from hpcsamp.methods import Method
from hpcsamp.methods.compiling import compile_passes
from hpcsamp.models import build
from hpcsamp.names import METHODS
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.training.timeline import STEPS, Timeline
from hpcsamp.watchdog import here

#: Input shapes of the models' datasets in the paper; any other network gets those of CIFAR-10.
SHAPES: dict[str, tuple[int, ...]] = {"vit": (3, 32, 32), "mlp": (96,)}
CIFAR, OUTPUTS = (3, 32, 32), 10
ITEMS = 45_000
TIMED = ("mean_field", "flipout", "local_reparameterisation", "ivon")
"""Methods with one set of variational parameters, which can be timed."""


@dataclass
class StepWork:
    """Model and sizes that all variants share."""

    model: str
    samples: int
    batch: int
    loss: str
    method: str = "mean_field"

    def network(self) -> nn.Module:
        """Create the network, with the same weights each time."""
        return build(self.model, {}, self.shape, OUTPUTS, seed=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an input."""
        return SHAPES.get(self.model, CIFAR)

    def data(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels."""
        g = torch_generator("cpu", 1, Purpose.SYNTHETIC)
        x = torch.randn(self.batch, *self.shape, generator=g)
        y = torch.randint(0, OUTPUTS, (self.batch,), generator=g)
        return x, y


def plain_passes(work: StepWork, passes: int) -> Callable[[], None]:
    """Forward and backward passes of the deterministic network: the lower bound."""
    network, (x, y) = work.network(), work.data()

    def step() -> None:
        for _ in range(passes):
            nn.functional.cross_entropy(network(x), y).backward()
        network.zero_grad()

    return step


def plain_steps(work: StepWork) -> Callable[[], None]:
    """S steps of Adam on the deterministic network."""
    network, (x, y) = work.network(), work.data()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        for _ in range(work.samples):
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def ours(
    work: StepWork, collectives: Collectives, memory: str = "auto", compiled: bool = False
) -> Callable[[], None]:
    """The training step of hpcsamp, with passes compiled by ``torch.compile`` if ``compiled``."""
    x, y = work.data()
    method: Method = METHODS.find(work.method)(work.network(), prior_std=0.2, seed=1)
    method.begin(ITEMS, 1000, 100)
    if compiled:
        compile_passes(method, x, range(work.samples))
    data_loss = hs.losses.make(work.loss, "classification")
    loss = ELBO(data_loss, ITEMS, collectives, memory=memory)  # type: ignore[arg-type]
    own = method.optimizers.get("Adam")
    adam = (
        torch.optim.Adam(method.parameters(), fused=True)
        if own is None
        else own(method.parameters())
    )
    optimizer = hs.distribute(adam, collectives, method)

    def step() -> None:
        value = loss(method, x, y, samples=work.samples)
        with here.part("backward"):
            value.backward()
        with here.part("optimiser"):
            optimizer.step()
            optimizer.zero_grad()

    return step


def torch_blue(work: StepWork) -> Callable[[], None]:
    """torch_blue's vectorised model with its Monte Carlo KL."""
    from torch_blue.vi import KullbackLeiblerLoss
    from torch_blue.vi.distributions import Categorical
    from torch_blue.vi.utils.convert import convert_to_vimodule

    network, (x, y) = work.network(), work.data()
    convert_to_vimodule(network)
    loss = KullbackLeiblerLoss(Categorical(), dataset_size=ITEMS)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap warns about missing batching rules
            loss(network(x, samples=work.samples), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def wait_for(request: Any) -> None:
    """Wait for an MPI request without spinning, because the measured rank needs the core."""
    while not request.Test():
        time.sleep(0.01)


def compare(
    work: StepWork,
    topology: Topology,
    repeat: int,
    baseline: bool,
    timeline: Timeline | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Time all variants in turn. Collective over the world.

    Parameters
    ----------
    repeat
        Number of timed rounds, after one warm-up round.
    baseline
        Whether to time torch_blue, which needs the most memory and time.
    timeline
        Records steps on all ranks after the timed rounds.
    compiled
        Whether to time the step of one rank with ``torch.compile`` as well.

    Returns
    -------
    dict
        Median seconds by variant, and the ratios of all rounds.
    """
    alone: dict[str, Callable[[], None]] = {}
    if topology.is_root:
        alone["plain"] = plain_passes(work, work.samples)
        alone["plain Adam"] = plain_steps(work)
        alone["one rank"] = ours(work, Alone())
        if compiled:
            alone["compiled"] = ours(work, Alone(), compiled=True)
        if baseline:
            alone["torch_blue"] = torch_blue(work)
    collectives = hs.choose(topology)
    # plain passes on all cores at the same time: the lower bound of a step on all ranks
    own = len(topology.samples(work.samples))
    together = {"plain on all ranks": plain_passes(work, own), "all ranks": ours(work, collectives)}
    seconds: dict[str, list[float]] = {name: [] for name in [*alone, *together]}
    for round_ in range(repeat + 1):
        for name, step in alone.items():
            seconds[name].append(_timed(step))
        if round_ == 0:
            wait_for(topology.world.Ibarrier())
            collectives.step_seconds = topology.world.bcast(
                seconds["one rank"][0] / topology.size if topology.is_root else None
            )
        for name, step in together.items():
            wait_for(topology.world.Ibarrier())
            spent = _timed(step)
            seconds[name].append(max(topology.world.allgather(spent)))
    if timeline is not None:
        timeline.start()
        for _ in range(STEPS):
            together["all ranks"]()
            timeline.mark()
        timeline.stop()
    counted = {name: values[1:] for name, values in seconds.items()}
    return {
        "samples": work.samples,
        "batch": work.batch,
        "ranks": topology.size,
        "collectives": collectives.settings(),
        "threads": torch.get_num_threads(),
        "seconds": {k: statistics.median(v) for k, v in counted.items() if v},
        "rounds": counted,
    }


def ratio(found: dict[str, Any], above: str, below: str) -> dict[str, float] | None:
    """Return median, minimum and maximum of the ratios over rounds."""
    rounds = found["rounds"]
    if not rounds.get(above) or not rounds.get(below):
        return None
    values = [a / b for a, b in zip(rounds[above], rounds[below], strict=True)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def one_step_for_memory(
    model: str, samples: int, batch: int, loss: str, method: str, memory: str
) -> None:
    """Run two steps, in a process whose peak memory is measured."""
    torch.set_num_threads(1)
    step = ours(StepWork(model, samples, batch, loss, method), Alone(), memory)
    step()
    step()
