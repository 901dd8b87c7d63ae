"""Simulation-based calibration of the methods on linear regressions with a known posterior.

    w ~ N(0, PRIOR^2 I),    y = X w + NOISE e,    posterior precision X'X / NOISE^2 + I / PRIOR^2

(Talts et al. 2018.) Weights and data are drawn many times, a method is fitted to each, and the rank
of each true weight among draws of the fitted posterior is recorded. With the orthogonal
design the weights are independent in the posterior; with the other they are correlated.

Many regressions with the same design are fitted at once, as the outputs of one linear layer: their
losses are added, and each weight has its own posterior, steps and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpcsamp import losses, methods, names
from hpcsamp.bench.rank_histogram import Histogram, ranks
from hpcsamp.collectives import Alone, distribute
from hpcsamp.methods.laplace import Laplace
from hpcsamp.prediction.gauss_newton import GaussNewton
from hpcsamp.streams import Purpose, numpy_generator

ITEMS, WEIGHTS = 20, 3
PRIOR, NOISE = 1.0, 0.5
DESIGNS = {"orthogonal": 0.0, "correlated": 0.9}
"""Correlation of the inputs of each design."""
QUANTITIES = (*(f"w{j + 1}" for j in range(WEIGHTS)), "sum of w")
LEVEL = 0.001
"""P-value below which ranks are reported as not uniform."""


@dataclass(frozen=True)
class Claim:
    """How a method is fitted, and on which designs its posterior should be exact.

    Attributes
    ----------
    method
        Name of the method.
    exact
        Designs on which its posterior is exact in the limit.
    steps, lr, optimizer, cosine
        Steps on all items, learning rate, name in ``torch.optim`` or the method's own optimiser,
        and whether the learning rate falls to zero along a cosine.
    arguments
        Arguments of the method besides ``prior_std``.
    samples
        Weight samples in training; None for one per draw, where samples are members.
    together
        Largest number of regressions that are fitted at once; 1 for methods that mix their weights,
        which are tested only if they are named.
    apart
        Whether members start from draws of the prior instead of zeros.
    after
        Function of the trained method, the inputs and the targets that returns the method to draw
        from; None for the trained method itself.
    """

    method: str
    exact: tuple[str, ...] = tuple(DESIGNS)
    steps: int = 600
    lr: float = 0.05
    optimizer: str = "Adam"
    cosine: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = 16
    together: int = 250
    apart: bool = False
    after: Callable[[methods.Method, Tensor, Tensor], methods.Method] | None = None


def _laplace(trained: methods.Method, x: Tensor, y: Tensor) -> methods.Method:
    network = trained.networks[0]
    sums = GaussNewton(network, network, "last_kron", losses.Gaussian(NOISE), x[:1])
    sums.add(x, y, torch.ones(len(x), dtype=x.dtype))
    network.requires_grad_(True)  # GaussNewton has disabled gradients
    return Laplace(network, sums.curvatures(), PRIOR**-2, linear=False, seed=trained.seed)


_NARROW = ("orthogonal",)
_VI = {"initial_std": 0.2}
_IVON = {"initial_std": 0.2, "lr": 0.5, "hessian_momentum": 0.99, "clip_radius": 1.0}
_CHAIN = {"cycles": 0, "exploration": 0.0, "burn_in": 0.0, "snapshots": 1}
METHODS = {
    "mean_field": Claim("mean_field", _NARROW, arguments=_VI),
    "flipout": Claim("flipout", _NARROW, arguments=_VI),
    "local_reparameterisation": Claim("local_reparameterisation", _NARROW, arguments=_VI),
    "ivon": Claim("ivon", _NARROW, arguments=_IVON),
    "laplace": Claim("ensemble", samples=1, after=_laplace),
    "sgld": Claim("sgld", steps=1500, lr=5e-3, optimizer="SGLD", cosine=False, arguments=_CHAIN,
                  samples=None),
    "svgd": Claim("svgd", (), steps=200, lr=1.0, arguments={"kernel": "imq"}, samples=None,
                  together=1, apart=True),
    "anchored ensemble": Claim("ensemble", (), arguments={"anchored": True}, samples=None),
}  # fmt: skip
"""Methods that claim a posterior; to test another one, add a line here."""
USUAL = [name for name, claim in METHODS.items() if claim.together > 1]
"""Methods that are tested unless others are named."""


def design(name: str) -> np.ndarray:
    """Return the ``(ITEMS, WEIGHTS)`` inputs of a design, which have mean square 1."""
    noise = numpy_generator(0, Purpose.SYNTHETIC).standard_normal((ITEMS, WEIGHTS))
    columns = np.linalg.qr(noise)[0] * ITEMS**0.5
    correlation = np.full((WEIGHTS, WEIGHTS), DESIGNS[name])
    np.fill_diagonal(correlation, 1.0)
    made: np.ndarray = columns @ np.linalg.cholesky(correlation).T
    return made


def simulate(x: np.ndarray, count: int, seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``(WEIGHTS, count)`` true weights, and targets ``(ITEMS, count)`` given them."""
    generator = numpy_generator(seed, Purpose.SYNTHETIC, 1, block)
    truth = PRIOR * generator.standard_normal((WEIGHTS, count))
    return truth, x @ truth + NOISE * generator.standard_normal((len(x), count))


def quantities(weights: np.ndarray) -> np.ndarray:
    """Return the ``(..., len(QUANTITIES), count)`` tested quantities of weights."""
    return np.concatenate([weights, weights.sum(-2, keepdims=True)], -2)


def draw(claim: Claim, x: np.ndarray, y: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Fit a method to regressions and return draws of their weights.

    Parameters
    ----------
    x, y
        ``(ITEMS, WEIGHTS)`` inputs and ``(ITEMS, count)`` targets of the regressions.
    draws
        L, the number of draws.

    Returns
    -------
    ndarray
        ``(L, WEIGHTS, count)``: the outputs at the unit vectors.
    """
    items, target = torch.from_numpy(x), torch.from_numpy(y)

    def network(member: int | None) -> nn.Module:
        layer = nn.Linear(x.shape[1], y.shape[1], bias=False, dtype=torch.float64)
        nn.init.zeros_(layer.weight)
        if claim.apart:
            start = numpy_generator(seed, Purpose.SYNTHETIC, 2, member or 0)
            noise = start.standard_normal(tuple(layer.weight.shape))
            layer.weight.data.copy_(PRIOR * torch.from_numpy(noise))
        return layer

    samples = claim.samples or draws
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws initial weights
        method: type[methods.Method] = names.METHODS.find(claim.method)
        made = method.create(
            network, samples, range(samples),
            seed=seed, samples_per_pass=samples, prior_std=PRIOR, **claim.arguments,
        )  # fmt: skip
    made.begin(len(x), claim.steps, 1)
    kind: Any = made.optimizers.get(claim.optimizer) or getattr(torch.optim, claim.optimizer)
    optimizer = distribute(kind(made.parameters(), lr=claim.lr), Alone(), made)
    schedule = None
    if claim.cosine:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, claim.steps)
    loss = losses.ELBO(losses.ExpectedNLL(losses.Gaussian(NOISE)), len(x), memory="keep")
    index = torch.arange(len(x))
    for _ in range(claim.steps):
        loss(made, items, target, samples=samples, index=index).backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule is not None:
            schedule.step()
    if claim.after is not None:
        made = claim.after(made, items, target)
    own = made.prediction_share(made.prediction_samples(draws), 1, 0)
    unit = torch.eye(x.shape[1], dtype=torch.float64)
    with torch.no_grad(), made.predicting():
        found: np.ndarray = made(unit, samples=own, step=0).numpy()
    return found


@dataclass(frozen=True)
class Block:
    """Some regressions that are fitted together."""

    method: str
    design: str
    index: int
    count: int

    def run(self, draws: int, seed: int) -> np.ndarray:
        """Fit the method; return the ranks of the true values, ``(len(QUANTITIES), count)``."""
        x = design(self.design)
        truth, y = simulate(x, self.count, seed, self.index)
        found = draw(METHODS[self.method], x, y, draws, seed * 10_000 + self.index)
        return ranks(quantities(found), quantities(truth))


def blocks(chosen: list[str], fits: int) -> list[Block]:
    """Divide all fits into blocks, which do not depend on the number of ranks."""
    return [
        Block(name, kind, index, min(METHODS[name].together, fits - start))
        for name in chosen
        for kind in DESIGNS
        for index, start in enumerate(range(0, fits, METHODS[name].together))
    ]


def table(found: Mapping[Block, np.ndarray], draws: int) -> list[dict[str, Any]]:
    """Return a row with the histogram for each method, design and quantity."""
    rows = []
    for name, kind in dict.fromkeys((of.method, of.design) for of in found):
        own = [v for of, v in found.items() if (of.method, of.design) == (name, kind)]
        for quantity, each in zip(QUANTITIES, np.concatenate(own, 1), strict=True):
            histogram = Histogram.of(each, draws)
            rows.append(
                {
                    "method": name,
                    "design": kind,
                    "quantity": quantity,
                    "claims_exact": kind in METHODS[name].exact,
                    "uniform": histogram.p >= LEVEL,
                    "bars": histogram.bars(),
                    **vars(histogram),
                }
            )
    return rows
