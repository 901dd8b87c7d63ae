"""Gradient error of averaging per-rank losses (``loss.exact = false``) by the number of ranks.

Compares the gradient of the data term with respect to the parameters, computed for the whole sample
group, with the mean over P ranks that each know only their own S/P samples. The ranks are
simulated, because a split only determines which outputs a loss reads. For P = number of ranks of
this job, the error is also measured with two real steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import hpcsamp as hs
from hpcsamp import losses
from hpcsamp.bench.step import ITEMS, OUTPUTS, SHAPES
from hpcsamp.collectives import Alone, Collectives, FlatGradient
from hpcsamp.grid import share
from hpcsamp.losses import ELBO, DataLoss
from hpcsamp.models import build
from hpcsamp.streams import Purpose, torch_generator

#: Losses to compare, by model: the paper's image classifier and its regression on time series.
TASKS = {"vit": "classification", "mlp": "regression"}
LOSSES = {
    "vit": ("expected_nll", "predictive_nll", "alpha_divergence"),
    "mlp": (
        "expected_nll",
        "beta_nll",
        "gaussian_mixture_nll",
        "predictive_nll",
        "alpha_divergence",
        "mean_mse",
        "gaussian_moments_nll",
        "crps",
        "energy_score",
    ),
}


@dataclass
class ExactnessCase:
    """A model and the sizes at which it is evaluated.

    Attributes
    ----------
    model
        ``vit`` or ``mlp``, in the paper's sizes.
    samples, batch
        ``S`` and ``B``.
    std
        Posterior standard deviation of every weight, which determines how much samples differ.
    """

    model: str
    samples: int
    batch: int
    std: float

    def method(self, loss: DataLoss) -> hs.MeanField:
        """Build the model with the number of outputs that the loss reads."""
        outputs = OUTPUTS * getattr(loss, "likelihood", _PLAIN).parameters
        network = build(self.model, {}, SHAPES[self.model], outputs, seed=1)
        return hs.MeanField(network, prior_std=0.2, initial_std=self.std, seed=1)

    def data(self) -> tuple[Tensor, Tensor]:
        """Return inputs, and labels or numeric targets."""
        g = torch_generator("cpu", 1, Purpose.SYNTHETIC)
        x = torch.randn(self.batch, *SHAPES[self.model], generator=g)
        if TASKS[self.model] == "classification":
            return x, torch.randint(0, OUTPUTS, (self.batch,), generator=g)
        return x, torch.randn(self.batch, OUTPUTS, generator=g)


_PLAIN = losses.Gaussian()


def compare(work: ExactnessCase, name: str, collectives: Collectives) -> dict[str, Any]:
    """Compute the errors for one loss and model. Collective; the sample group shares the work.

    Returns
    -------
    dict
        ``splits``: relative error of the approximate gradient, by P (powers of 2 up to S); None if
        the loss needs more samples than a rank has. ``values``: relative error of the loss itself.
        ``measured``: relative error of the gradient for the P of this job, from real steps.
    """
    task = TASKS[work.model]
    usual = losses.defaults(name, task, {})[1].get("name")
    fixed = {"std": 1.0} if usual == "learned_gaussian" else {}  # the network has no noise to learn
    loss = losses.make(name, task, likelihood=fixed)
    method, (x, y) = work.method(loss), work.data()
    mine = share(work.samples, collectives.sample_size, collectives.sample_rank)
    counts = [
        len(share(work.samples, collectives.sample_size, p)) for p in range(collectives.sample_size)
    ]
    with torch.no_grad():
        own = torch.cat([method(x, samples=range(s, s + 1), step=0) for s in mine])
    outputs = collectives.gather_over_samples(own, counts)
    value, exact = _averaged(loss, outputs, y, 1)
    upstreams, values = {1: exact}, {1: 0.0}
    for ranks in _powers_of_two(work.samples)[1:]:
        if work.samples // ranks >= loss.least_samples:
            approximate, upstreams[ranks] = _averaged(loss, outputs, y, ranks)
            values[ranks] = abs(approximate - value) / abs(value)
    flat = _pull_back(method, x, mine, list(upstreams.values()), collectives)
    found = {p: _relative(row, flat[0]) for p, row in zip(upstreams, flat, strict=True)}
    splits = {p: found.get(p) for p in _powers_of_two(work.samples)}
    measured = None
    if work.samples // collectives.sample_size >= loss.least_samples:
        exactly, roughly = (_real(work, loss, x, y, collectives, exact) for exact in (True, False))
        measured = _relative(roughly, exactly)
    return {
        "model": work.model,
        "loss": name,
        "splits": splits,
        "values": values,
        "measured": measured,
    }


def _averaged(loss: DataLoss, outputs: Tensor, y: Tensor, ranks: int) -> tuple[float, Tensor]:
    """Return the mean over ranks of the losses of their own samples, and its gradient."""
    leaf = outputs.detach().requires_grad_()
    value = torch.zeros((), dtype=torch.float64)
    for rank in range(ranks):
        own = share(len(outputs), ranks, rank)
        part = loss(leaf[own.start : own.stop], y, len(own), Alone()).mean()
        value = value + part.double() / ranks
    (gradient,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), gradient


def _pull_back(
    method: hs.MeanField, x: Tensor, mine: range, upstreams: list[Tensor], group: Collectives
) -> Tensor:
    """Return ``(len(upstreams), n)`` parameter gradients, from one forward pass per sample."""
    parameters = list(method.parameters())
    total = torch.zeros(len(upstreams), sum(p.numel() for p in parameters))
    for s in mine:
        outputs = method(x, samples=range(s, s + 1), step=0)
        for row, upstream in zip(total, upstreams, strict=True):
            gradients = torch.autograd.grad(
                outputs, parameters, upstream[s : s + 1], retain_graph=True
            )
            row += torch.cat([g.flatten() for g in gradients])
    if group.sample_size > 1:
        group.sum_(total, "sample")
    return total


def _real(
    work: ExactnessCase, loss: DataLoss, x: Tensor, y: Tensor, collectives: Collectives, exact: bool
) -> Tensor:
    """Return the gradient of a real step on the ranks of this job, without the KL term."""
    method = work.method(loss)
    gradient = FlatGradient(method.parameters())
    elbo = ELBO(loss, ITEMS, collectives, temperature=0.0, exact=exact)
    elbo(method, x, y, samples=work.samples, step=0).backward()
    collectives.reduce_gradient_(gradient.collect())
    return gradient.flat


def _powers_of_two(samples: int) -> list[int]:
    return [1 << k for k in range(samples.bit_length()) if 1 << k <= samples]


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).double().norm() / exact.double().norm())
