"""The importance-weighted bound: tighter than the ELBO, from the same S samples."""

from __future__ import annotations

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.losses.about import About, Shared
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.batch import Step
from hpcsamp.losses.likelihoods import Likelihood, log_prob_of
from hpcsamp.losses.mixture import log_mean_exp
from hpcsamp.losses.values import wide


class ImportanceWeightedELBO(DataLoss):
    """Log of the mean importance weight of all S samples, per item; prior and posterior included.

    With S = 1 it is the ELBO with a Monte Carlo KL; it falls with S towards ``-log p(D) / N``. The
    method says ``log q(w_s) - log p(w_s)`` of its draws
    (:meth:`~hpcsamp.methods.base.Method.log_ratio`), so there is no penalty beside it; temperature
    and warm-up multiply that ratio.

    A weight belongs to all the data. On a batch, ``log p(D | w_s)`` is estimated by N times the
    mean over the items of the step, over **all** data groups (S/P numbers are averaged over them,
    so the grid does not matter). The exponent is then a noisy one: unlike the ELBO's, the gradient
    of a batch is not without bias. It is exact where a batch is all the data, and close where
    ``N / B`` times the scatter of the items' log likelihoods between samples is below 1. For large
    N a single sample has nearly all the weight.

    Called on outputs alone, it takes the batch for all the data and the ratio for 0; the items
    share the value.
    """

    about = About(
        formula="-1/N log mean_s p(D | w_s) p(w_s) / q(w_s)",
        kind="joint",
        exchanges=(
            Shared("maximum", 8),
            Shared("sum of exp", 8),
            Shared("S/P log likelihoods over data groups", 8, "S", over_ranks=True),
        ),
        cost="S log densities, 2 S draws of the noise",
        source="Burda et al. 2016, eq. 8, with weights as latents",
    )
    joint = True

    def __init__(self, likelihood: Likelihood, *, weights: Tensor | None = None) -> None:
        super().__init__(weights=weights)
        self.likelihood = likelihood

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """``(B,)``, all the same, see :meth:`DataLoss.items`."""
        log_p = log_prob_of(self.likelihood, outputs, target, weight).double().sum(-1)
        value = -log_mean_exp(log_p, samples, group) / len(target)
        return value.to(outputs.dtype).expand(len(target))

    def of_step(
        self,
        outputs: Tensor,
        step: Step,
        samples: int,
        group: Collectives,
        log_ratio: Tensor | None,
    ) -> Tensor:
        """Scalar; ``log_ratio`` is ``(s,)``, ``log q(w_s) - log p(w_s)``. Collective over all."""
        target, weight = self.fit(step.target, step.mask)
        # N times a mean: float32 would leave an error of 1e-7 N nats in the exponent
        log_p = log_prob_of(self.likelihood, wide(outputs), target, weight).double()
        log_weight = step.items * step.mean_over_data(step.mean(log_p))
        if log_ratio is not None:
            log_weight = log_weight - log_ratio
        return -log_mean_exp(log_weight, samples, group) / step.items
