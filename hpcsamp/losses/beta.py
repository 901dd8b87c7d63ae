"""beta-NLL: Gaussian NLL with a gradient that does not shrink where the variance is large."""

from __future__ import annotations

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.losses.about import About
from hpcsamp.losses.base import LinearLoss
from hpcsamp.losses.likelihoods import Likelihood, PredictedGaussian, need_predicted
from hpcsamp.losses.values import over_values


class BetaNLL(LinearLoss):
    """Negative log likelihood of each value times its predicted ``std^(2 beta)``.

    The factor is constant with respect to the gradient. Without it (beta = 0, which is
    ``expected_nll``) a model can lower its loss by predicting a large variance where it does not
    fit yet, which stops the fit there; with beta = 1 the means have the gradient of the squared
    error.

    Parameters
    ----------
    likelihood
        A :class:`~hpcsamp.losses.likelihoods.PredictedGaussian`, which defines the meaning of the
        outputs (default: one with its default arguments).
    beta
        From 0 to 1.

    Raises
    ------
    UsageError
        If beta is not within 0 and 1, or the likelihood is not a ``PredictedGaussian``.
    """

    usual_likelihood = "predicted_gaussian"
    likelihood: PredictedGaussian
    about = About(
        formula="mean_s stop(std_s^(2 beta)) * -log N(t; mu_s, std_s)",
        kind="linear",
        cost="S log densities",
        source="Seitzer et al. 2022, eq. 4",
    )
    by_values = True

    def __init__(
        self,
        likelihood: Likelihood | None = None,
        beta: float = 0.5,
        *,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(weights=weights)
        if not 0 <= beta <= 1:
            raise UsageError(f"beta of beta_nll must be within 0 and 1, got {beta}")
        self.beta = beta
        self.likelihood = need_predicted("beta_nll", likelihood)

    def per_sample(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return ``(s, B)`` weighted negative log likelihoods."""
        _, std = self.likelihood.mean_and_std(outputs, target)
        nll = -self.likelihood.of_values(outputs, target)
        return over_values(nll * std.detach() ** (2 * self.beta), weight, lead=2)
