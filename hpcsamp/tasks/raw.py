"""Predictions for a likelihood without moments: the samples' outputs and the log density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.losses import Likelihood, centred_moments, log_mean_exp
from hpcsamp.losses.likelihoods import log_prob_of
from hpcsamp.losses.values import wide
from hpcsamp.metrics.sums import Sums, check_defined
from hpcsamp.tasks.base import Found, Prediction, Tally
from hpcsamp.tasks.layout import ITEM, FileVariable, sample_axis
from hpcsamp.tasks.views import View


def has_moments(likelihood: Likelihood) -> bool:
    """Whether a likelihood implements a mean and a variance."""
    return type(likelihood).moments is not Likelihood.moments


@dataclass
class RawPrediction(Prediction):
    """Unprocessed outputs of the samples.

    Attributes
    ----------
    mean, variance
        ``(B, n)`` mean and variance of the outputs over samples.
    log_density
        ``(B,)`` nats, log density of the targets under the mixture of all samples.
    own
        ``(s, B, n)`` outputs of this rank's samples.
    """

    mean: Tensor
    variance: Tensor
    log_density: Tensor
    own: Tensor

    def lazy(self) -> Mapping[str, Callable[[], Tensor]]:
        """See :class:`Prediction`."""
        return {
            "outputs": lambda: self.mean,
            "outputs_std": lambda: self.variance.sqrt(),
            "log_density": lambda: self.log_density,
            "total": lambda: self.variance.mean(-1),
            "epistemic": lambda: self.variance.mean(-1),
            "samples": lambda: self.own.movedim(0, 1),
        }

    def scores(self) -> Mapping[str, Tensor]:
        """See :class:`Prediction`; both are the variance over samples, as noise has no moments."""
        return {"total": self.variance.mean(-1), "epistemic": self.variance.mean(-1)}


def predict_raw(outputs: Tensor, target: Tensor, view: View, mask: Tensor | None) -> RawPrediction:
    """Compute the prediction from this rank's outputs ``(s, B, ...)``. Collective."""
    outputs = wide(outputs)
    if mask is not None:
        target = target.masked_fill(~mask, 0)
    density = log_prob_of(view.likelihood, outputs, target, mask)
    if density.shape != outputs.shape[:2]:
        raise UsageError(
            f"log_prob of {type(view.likelihood).__name__} must return shape "
            f"{tuple(outputs.shape[:2])}, (samples, items), but it returned {tuple(density.shape)}"
        )
    flat = outputs.flatten(2) if outputs.dim() > 2 else outputs[..., None]
    centre, shift, square = centred_moments(flat, view.samples, view.group)
    return RawPrediction(
        centre + shift,
        square / view.samples,
        log_mean_exp(density, view.samples, view.group),
        flat,
    )


class RawTally(Tally):
    """Negative log density, averaged over items."""

    def __init__(self) -> None:
        self.sums = Sums(("items", "count", "undefined", "nll"), {})

    @property
    def states(self) -> list[Tensor]:
        """See :class:`Tally`."""
        return [self.sums.state]

    def update(
        self, prediction: RawPrediction, target: Tensor, weight: Tensor, mask: Tensor | None = None
    ) -> None:
        """See :class:`Tally`."""
        keep = weight > 0
        if mask is not None:
            keep = keep & mask.reshape(len(mask), -1).any(1)
        density, w = prediction.log_density[keep].double(), weight[keep].double()
        self.sums.add(
            {
                "items": w.sum(),
                "count": keep.double().sum(),
                "undefined": density.isnan().double().sum(),
                "nll": -(w * density).sum(),
            },
            {},
        )

    def result(self, full: bool) -> Found:
        """See :class:`Tally`."""
        sums, _ = self.sums.read()
        check_defined(sums)
        return Found({"nll": sums["nll"] / sums["items"], "items": sums["count"]})


def raw_variables(
    view: View, dtype: str, samples: int
) -> tuple[dict[str, FileVariable], dict[str, FileVariable]]:
    """Describe the axes and arrays of a predictions file, see :meth:`Task.variables`."""
    count = view.likelihood.size(view.targets.shape, view.targets.classes)
    at = np.arange(count, dtype="<i8")
    scales = {"output": FileVariable(("output",), "<i8", "", "position of the network output", at)}
    place = (ITEM, "output")
    made = {
        "outputs": FileVariable(place, dtype, "", "outputs of the network, mean over the samples"),
        "outputs_std": FileVariable(
            place, dtype, "", "outputs of the network, standard deviation over the samples"
        ),
        "log_density": FileVariable(
            (ITEM,), dtype, "nat", "log density of the target under the predictive mixture"
        ),
        "total": FileVariable((ITEM,), dtype, "", "variance of the outputs, mean over them"),
        "epistemic": FileVariable(
            (ITEM,), dtype, "", "equal to total, because the likelihood has no noise variance"
        ),
    }
    if samples:
        scales["sample"] = sample_axis(samples)
        made["samples"] = FileVariable(
            (ITEM, "sample", "output"), dtype, "", "outputs of every weight sample"
        )
    return scales, made
