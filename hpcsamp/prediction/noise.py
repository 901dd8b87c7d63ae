"""Observation noise: record it in evaluations, and estimate it if the loss does not determine it.

The loss decides which of the two applies (:meth:`~hpcsamp.losses.base.DataLoss.predictive`).
"""

from __future__ import annotations

from collections.abc import Mapping
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
    Likelihoods,
    Samples,
    log_mean_exp,
)
from hpcsamp.methods import Method
from hpcsamp.tasks import Targets
from hpcsamp.tasks.outputs import inputs_for, local_outputs, split
from hpcsamp.tasks.predictive import value_prediction

if TYPE_CHECKING:
    from hpcsamp.data import Dataset, Manifest
    from hpcsamp.grid import Topology
    from hpcsamp.prediction.evaluator import Evaluator
    from hpcsamp.run.assemble import Run

#: Candidate standard deviations, in units of the target's standard deviation.
WIDTHS = np.geomspace(1e-3, 2, 41)


def record(
    likelihood: Likelihood, method: Method, inputs: Tensor, targets: Targets, samples: int,
    group: Collectives,
) -> dict[str, Any]:  # fmt: skip
    """Describe the observation noise and its source, for the records of an evaluation.

    Collective over the sample group.

    Parameters
    ----------
    inputs
        One item with arbitrary values, ``(1, ...)``: learnt noise is the same for all items.
    targets
        Targets that are predicted.

    Returns
    -------
    dict
        ``source``, and ``std`` if it is the same for all items: the root mean square over samples
        and the values of an item, in the units of a batch. For several targets, one such dictionary
        by name for each target that is not a label.
    """
    each = {"y": (likelihood, targets)}
    if isinstance(likelihood, Likelihoods):
        each = {n: (of, targets.parts[n]) for n, of in likelihood.each.items()}
    outputs: dict[str, Tensor] = {}
    if any(isinstance(of, LearnedGaussian) for of, _ in each.values()):
        x = inputs_for(method, inputs)
        outputs = split(local_outputs(method, x, samples, group), method, list(each))
    facts = {
        name: _record(of, outputs.get(name), target, samples, group)
        for name, (of, target) in each.items()
        if target.classes is None
    }
    return facts if isinstance(likelihood, Likelihoods) else facts["y"]


def _record(
    likelihood: Likelihood, outputs: Tensor | None, target: Targets, samples: int,
    group: Collectives,
) -> dict[str, Any]:  # fmt: skip
    """Describe the noise of one target."""
    facts: dict[str, Any] = {"source": likelihood.source}
    if isinstance(likelihood, LearnedGaussian):
        assert outputs is not None
        y = outputs.new_zeros(1, *target.shape)
        found = value_prediction(outputs, y, samples, group, likelihood)
        facts["std"] = float(found.aleatoric.double().mean().sqrt())
    elif isinstance(likelihood, Gaussian):
        facts["std"] = likelihood.std
    elif isinstance(likelihood, Samples):
        facts["std"] = 0.0
    return facts


def open_widths(likelihood: Likelihood) -> dict[str, FittedGaussian]:
    """Likelihoods whose width is estimated after training, by target; ``y`` for a single one."""
    each = likelihood.each if isinstance(likelihood, Likelihoods) else {"y": likelihood}
    return {name: of for name, of in each.items() if isinstance(of, FittedGaussian)}


def with_widths(likelihood: Likelihood, widths: Mapping[str, FittedGaussian]) -> Likelihood:
    """Return a likelihood in which these widths replace those of :func:`open_widths`."""
    if not isinstance(likelihood, Likelihoods):
        return widths["y"]
    return Likelihoods({**likelihood.each, **widths})


def is_open(likelihood: Likelihood) -> bool:
    """Whether the noise of any target has to be estimated."""
    return bool(open_widths(likelihood))


def split_of(manifest: Manifest) -> str:
    """The split on which noise is estimated: ``valid``, or ``train`` if there is no ``valid``."""
    return "valid" if "valid" in manifest.splits else "train"


def fit_on(
    run: Run, items: Dataset, topology: Topology, collectives: Collectives, samples: int
) -> Likelihood:
    """Estimate the noise by :func:`fit` on a split of a dataset. Collective over the world."""
    from hpcsamp.prediction.evaluator import Evaluator

    evaluator = Evaluator(run, items, topology, collectives, run.likelihood, samples=samples)
    try:
        return fit(evaluator, run.method)
    finally:
        evaluator.close()


def fit(evaluator: Evaluator, method: Method) -> Likelihood:
    """Return the likelihood with estimates of its unknown widths. Collective over the world."""
    model = evaluator.likelihood
    several = isinstance(model, Likelihoods)
    names = open_widths(model)
    return with_widths(
        model, {name: _fit(evaluator, method, name if several else "") for name in names}
    )


def _fit(evaluator: Evaluator, method: Method, target: str) -> FittedGaussian:
    """Fit the width of a normal likelihood by maximum likelihood on the evaluator's split.

    The width minimises the ``nll`` of the predictive mixture, as the precision of Monte Carlo
    dropout is usually chosen (Gal & Ghahramani 2016, section 5.1): first over :data:`WIDTHS` times
    the standard deviation of the target, then with a parabola through the best candidate and its
    neighbours in the logarithm of the width. ``target``: name of one of several targets, or empty.
    """
    group, samples = evaluator.collectives, evaluator.samples
    view = evaluator.view(method)
    typical = float((view.parts[target] if target else view).units.typical.mean())
    widths = torch.as_tensor(WIDTHS * typical)
    total = torch.zeros(len(widths), dtype=torch.float64)
    for batch in evaluator.loader.epoch(0):
        index = torch.from_numpy(batch.index).to(batch.device)
        outputs = local_outputs(method, batch.x, samples, group, index)
        y, mask = batch.y, batch.mask
        if target:
            outputs = split(outputs, method, list(batch.y))[target]
            y, mask = y[target], None if mask is None else mask.get(target)
        known = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
        y = y.masked_fill(~known, 0)
        means, _ = Samples().moments(outputs, y)
        gap = (means.double() - y) * known
        square = gap.square().reshape(*gap.shape[:2], -1).sum(2)  # (s, B)
        values, at = known.reshape(len(known), -1).sum(1), widths.to(square.device)[:, None]
        each = -0.5 * square[:, None] / at**2 - values * at.log()
        density = log_mean_exp(each, samples, group)
        true = batch.weight > 0
        total += (density * batch.weight)[:, true].sum(1).cpu()
    if evaluator.topology.data_size > 1:
        group.sum_(total, "data")
    found = evaluator.topology.world.bcast(_best(widths.log().numpy(), -total.numpy()))
    return FittedGaussian(found, f"estimated on {evaluator.dataset.split}")


def _best(x: np.ndarray, y: np.ndarray) -> float:
    """``exp`` of the minimum of the parabola through the smallest ``y`` and its neighbours."""
    k = int(np.argmin(y))
    if k in (0, len(y) - 1):
        return float(np.exp(x[k]))
    a, b, c = y[k - 1 : k + 2]
    shift = 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c > 0 else 0.0
    return float(np.exp(x[k] + shift * (x[1] - x[0])))
