"""Observation noise: what evaluations record of it, and its estimate where a loss leaves it open.

Which of these it is stands on the loss (:meth:`~hpcsamp.losses.base.DataLoss.predictive`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses import (
    FittedGaussian,
    Gaussian,
    LearnedGaussian,
    Likelihood,
    Samples,
    log_mean_exp,
)
from hpcsamp.methods import Method
from hpcsamp.tasks.outputs import local_outputs
from hpcsamp.tasks.predictive import predict_values

if TYPE_CHECKING:
    from hpcsamp.prediction.evaluator import Evaluator

#: Standard deviations that are tried, in those of the target.
WIDTHS = np.geomspace(1e-3, 2, 41)


def record(
    likelihood: Likelihood, method: Method, inputs: Tensor, target: Tensor, samples: int,
    group: Collectives,
) -> dict[str, Any]:  # fmt: skip
    """The noise of observations and where it comes from, for the records of an evaluation.

    Collective over the sample group.

    Parameters
    ----------
    inputs, target
        An item of any values, ``(1, ...)`` each: noise that is learnt is the same for all.

    Returns
    -------
    dict
        ``source``, and ``std`` where it is the same for all items: the root of its mean square over
        samples and the values of an item, in the units of a batch.
    """
    told: dict[str, Any] = {"source": likelihood.source}
    if isinstance(likelihood, LearnedGaussian):
        found = predict_values(method, inputs, target, samples, group, likelihood)
        told["std"] = float(found.aleatoric.double().mean().sqrt())
    elif isinstance(likelihood, Gaussian):
        told["std"] = likelihood.std
    elif isinstance(likelihood, Samples):
        told["std"] = 0.0
    return told


def fit(evaluator: Evaluator, method: Method) -> FittedGaussian:
    """A normal likelihood whose width makes the targets of the evaluator's split most probable.

    The width minimises the ``nll`` of the predictive mixture, as the precision of Monte Carlo
    dropout is usually chosen (Gal & Ghahramani 2016, section 5.1): over :data:`WIDTHS` times the
    standard deviation of the target, then by the parabola through the best and its neighbours, in
    the logarithm of the width. Collective over the world.
    """
    group, samples = evaluator.collectives, evaluator.samples
    typical = float(evaluator.units.typical.mean())
    widths = torch.as_tensor(WIDTHS * typical)
    total = torch.zeros(len(widths), dtype=torch.float64)
    for batch in evaluator.loader.epoch(0):
        index = torch.from_numpy(batch.index).to(batch.device)
        outputs = local_outputs(method, batch.x, samples, group, index)
        means, _ = Samples().moments(outputs, batch.y)
        square = (means.double() - batch.y).square().flatten(2).sum(2)  # (s, B)
        values, at = batch.y[0].numel(), widths.to(square.device)[:, None]
        each = -0.5 * square[:, None] / at**2 - values * at.log()
        density = log_mean_exp(each, samples, group)
        true = batch.weight > 0
        total += density[:, true].sum(1).cpu()
    if evaluator.topology.data_size > 1:
        group.sum_(total, "data")
    found = evaluator.topology.world.bcast(_best(widths.log().numpy(), -total.numpy()))
    return FittedGaussian(found, f"estimated on {evaluator.dataset.split}")


def _best(x: np.ndarray, y: np.ndarray) -> float:
    """``exp`` of where the parabola through the least of ``y`` and its neighbours is least."""
    k = int(np.argmin(y))
    if k in (0, len(y) - 1):
        return float(np.exp(x[k]))
    a, b, c = y[k - 1 : k + 2]
    shift = 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c > 0 else 0.0
    return float(np.exp(x[k] + shift * (x[1] - x[0])))
