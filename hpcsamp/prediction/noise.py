"""Observation noise where the loss of a run does not say it.

Some losses compare samples with targets without a density. Those that score the samples themselves
(``crps``, ``energy_score``) make them the predictive distribution: there is no noise. The squared
error of the mean (``mean_mse``) says nothing of noise: its width is estimated on the validation
split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hpcsamp.losses import Gaussian, Likelihood, log_mean_exp
from hpcsamp.methods import Method
from hpcsamp.prediction.components import Samples
from hpcsamp.prediction.evaluate import Evaluator
from hpcsamp.prediction.predictive import local_outputs

SAMPLES_ALONE = ("crps", "energy_score")
TO_BE_FITTED = ("mean_mse",)
#: Standard deviations that are tried, in those of the target.
WIDTHS = np.geomspace(1e-3, 2, 41)


def of_loss(
    likelihood: Likelihood, loss: str, arguments: Mapping[str, Any]
) -> tuple[Likelihood, str]:
    """The observation model of predictions, and where its noise comes from.

    Parameters
    ----------
    likelihood
        What the configuration leads to if the loss has a density.
    loss, arguments
        ``loss.name`` and ``loss.arguments``; a likelihood or ``std`` named there is what counts.

    Returns
    -------
    tuple
        The likelihood, and ``"likelihood"``, ``"none"`` or ``"to be fitted"``.
    """
    if {"likelihood", "std"} & arguments.keys() or not isinstance(likelihood, Gaussian):
        return likelihood, "likelihood"
    if loss in SAMPLES_ALONE:
        return Samples(), "none"
    if loss == "gaussian_moments_nll":
        noise = float(arguments.get("noise", 0.0))
        return (Gaussian(noise), "likelihood") if noise > 0 else (Samples(), "none")
    return likelihood, "to be fitted" if loss in TO_BE_FITTED else "likelihood"


def fit(evaluator: Evaluator, method: Method) -> Gaussian:
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
        index = torch.from_numpy(batch.index).to(batch.x.device)
        outputs = local_outputs(method, batch.x, samples, group, index)
        means, _ = Samples().moments(outputs, batch.y)
        square = (means.double() - batch.y).square().flatten(2).sum(2)  # (s, B)
        values, at = batch.y[0].numel(), widths.to(square.device)[:, None]
        each = -0.5 * square[:, None] / at**2 - values * at.log()
        density = log_mean_exp(each, samples, group)
        true = batch.weight > 0
        total += density[:, true].sum(1).cpu()
    if evaluator.topology.data_size > 1:
        group.data_sum_(total)
    return Gaussian(evaluator.topology.world.bcast(_best(widths.log().numpy(), -total.numpy())))


def _best(x: np.ndarray, y: np.ndarray) -> float:
    """``exp`` of where the parabola through the least of ``y`` and its neighbours is least."""
    k = int(np.argmin(y))
    if k in (0, len(y) - 1):
        return float(np.exp(x[k]))
    a, b, c = y[k - 1 : k + 2]
    shift = 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c > 0 else 0.0
    return float(np.exp(x[k] + shift * (x[1] - x[0])))
