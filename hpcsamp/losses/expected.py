"""Expected negative log likelihood: the data term of the ELBO, as in the paper's Algorithm 1."""

from __future__ import annotations

from torch import Tensor

from hpcsamp.losses.about import About
from hpcsamp.losses.base import LinearLoss
from hpcsamp.losses.likelihoods import Likelihood, log_prob_of


class ExpectedNLL(LinearLoss):
    """The mean over samples of the negative log likelihood."""

    about = About(
        formula="mean_s -log p(t | y_s)",
        kind="linear",
        cost="S log densities",
        source="Blundell et al. 2015, eq. 2; the paper's Algorithms 1 and 2",
    )
    by_values = True

    def __init__(self, likelihood: Likelihood, *, weights: Tensor | None = None) -> None:
        super().__init__(weights=weights)
        self.likelihood = likelihood

    def per_sample(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return ``(s, B)`` negative log likelihoods."""
        return -log_prob_of(self.likelihood, outputs, target, weight)
