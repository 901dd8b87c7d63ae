"""Expected negative log likelihood: the data term of the ELBO, as in the paper's Algorithm 1."""

from __future__ import annotations

from torch import Tensor

from hpcsamp.losses.base import LinearLoss
from hpcsamp.losses.likelihoods import Likelihood


class ExpectedNLL(LinearLoss):
    r"""``mean_s -log p(t | y_s)``.

    Class: linear; averaging gradients over ranks is exact. Communicated: nothing but the value.
    Source: Blundell et al. 2015, eq. 2; Algorithms 1 and 2 of the paper.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood

    def per_sample(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B)`` negative log likelihoods."""
        return -self.likelihood.log_prob(outputs, target)
