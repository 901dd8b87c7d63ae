"""The importance-weighted ELBO: a tighter bound than the ELBO from the same S samples."""

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
    """Negative log of the mean importance weight of all S samples, per item.

    Prior and posterior are part of the loss. With S = 1 it is the ELBO with a Monte Carlo KL; with
    more samples it decreases towards ``-log p(D) / N``. The method returns ``log q(w_s) - log
    p(w_s)`` of its draws (:meth:`~hpcsamp.methods.base.Method.log_ratio`), so no penalty is added;
    temperature and warm-up multiply that ratio.

    An importance weight belongs to the whole dataset. On a batch, ``log p(D | w_s)`` is estimated
    by N times the mean over the items of the step, over **all** data groups (S/P values are
    averaged over the groups, so the result does not depend on the grid). Because this estimate is
    inside an exponential, the gradient of a batch is biased, unlike that of the ELBO. It is exact
    where a batch holds all the data, and close where ``N / B`` times the scatter of the items' log
    likelihoods between samples is below 1. For large N a single sample has nearly all the weight.

    Called on outputs alone, the loss treats the batch as all the data and the ratio as 0, and
    divides the value equally over the items.
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
        """Return ``(B,)`` equal losses, see :meth:`DataLoss.items`."""
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
        """Return a scalar; ``log_ratio``: ``(s,)``, ``log q - log p``. Collective over ranks."""
        target, weight = self.fit(step.target, step.mask)
        # N times a mean: float32 would leave an error of 1e-7 N nats in the exponent
        log_p = log_prob_of(self.likelihood, wide(outputs), target, weight).double()
        log_weight = step.items * step.mean_over_data(step.mean(log_p))
        if log_ratio is not None:
            log_weight = log_weight - log_ratio
        return -log_mean_exp(log_weight, samples, group) / step.items
