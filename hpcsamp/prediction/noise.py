"""Observation noise where the loss of a run does not say it.

Some losses compare samples with targets without a density. Those that score the samples themselves
(``crps``, ``energy_score``) make them the predictive distribution: there is no noise. The squared
error of the mean (``mean_mse``) says nothing of noise: its variance is estimated on the validation
split, as what the samples' spread leaves of the mean squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hpcsamp.losses import Gaussian, Likelihood
from hpcsamp.methods import Method
from hpcsamp.prediction.components import Samples
from hpcsamp.prediction.evaluate import Evaluator
from hpcsamp.prediction.metrics import RegressionMetrics
from hpcsamp.prediction.predictive import predict_values

SAMPLES_ALONE = ("crps", "energy_score")
TO_BE_FITTED = ("mean_mse",)
#: Least fitted standard deviation, as a part of the root mean squared error.
LEAST = 0.01


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
    """A normal likelihood whose variance is ``MSE - variance of the samples' means``.

    Both are means over the values of the evaluator's split, weighted as its metrics are, in the
    units the network computes in; not less than :data:`LEAST` of the root mean squared error.
    Collective over the world.
    """
    metrics = RegressionMetrics(rows=len(evaluator.units.scale), weights=evaluator.weights)
    for batch in evaluator.loader.epoch(0):
        index = torch.from_numpy(batch.index).to(batch.x.device)
        p = predict_values(
            method, batch.x, batch.y, evaluator.samples, evaluator.collectives, Samples(), index
        )
        metrics.update(p.mean, p.epistemic, batch.y, batch.weight, epistemic=p.epistemic)
    if evaluator.topology.data_size > 1:
        evaluator.collectives.data_sum_(metrics.state)
    found = metrics.compute()
    square = found["rmse"] ** 2
    variance = max(square - found["spread_epistemic"] ** 2, LEAST**2 * square, 1e-24)
    return Gaussian(evaluator.topology.world.bcast(variance**0.5))
