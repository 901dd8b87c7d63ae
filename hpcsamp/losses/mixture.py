"""Negative log likelihood of the predictive mixture, exact over the sample group."""

from __future__ import annotations

import math

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses.about import About, Shared
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.likelihoods import Likelihood, log_prob_of, need_predicted
from hpcsamp.losses.values import over_values


def log_mean_exp(log_p: Tensor, samples: int, group: Collectives) -> Tensor:
    """Return ``log (1/S sum_s exp log_p_s)`` over all samples of the group.

    Parameters
    ----------
    log_p
        ``(s, ...)``, this rank's samples.
    samples
        ``S``.

    Returns
    -------
    Tensor
        ``(...)``. If all probabilities are exactly 0, the result is minus infinity, not NaN.

    Notes
    -----
    Ranks exchange two tensors of the size of the result: the maximum of ``log_p``, which is used
    as a shift, then the sum.
    """
    each, shift = shifted_exp(log_p, group)
    return log_of_sum(each, shift, samples, group)


def shifted_exp(log_p: Tensor, group: Collectives) -> tuple[Tensor, Tensor]:
    """Return ``exp(log_p - shift)``, whose sum does not underflow, and the shift ``(...)``.

    Parameters
    ----------
    log_p
        ``(s, ...)``, this rank's samples; the shift is the maximum over all samples of the group.
    """
    shift = group.max_over_samples(log_p.amax(0))
    shift = shift.masked_fill(shift.isinf(), 0)  # inf - inf is NaN
    return (log_p - shift).exp_(), shift


def log_of_sum(each: Tensor, shift: Tensor, samples: int, group: Collectives) -> Tensor:
    """Return ``log (1/S sum_s exp log_p_s)`` from the results of :func:`shifted_exp`."""
    return group.sum_over_samples(each.sum(0)).log() + shift - math.log(samples)


class AlphaDivergence(DataLoss):
    """Black-box alpha energy: between the expected NLL (alpha to 0) and the predictive NLL (1).

    For a likelihood that treats each value, such as a pixel, as a separate event (not
    :attr:`Likelihood.joint`), the mean over samples is taken value by value, and ``V`` times the
    bytes are exchanged.

    With the KL added, this is the approximation of the energy by Li & Gal. A larger alpha covers
    more of the posterior's mass, a smaller alpha seeks a mode.

    Parameters
    ----------
    alpha
        Any number except 0; usually within 0 and 1.

    Raises
    ------
    UsageError
        If alpha is 0, which is ``expected_nll``, or not finite.
    """

    about = About(
        formula="-1/alpha log mean_s p(t | y_s)^alpha",
        kind="mixture",
        exchanges=(Shared("maximum", 4, "B"), Shared("sum of exp", 4, "B")),
        cost="S log densities",
        source="Hernández-Lobato et al. 2016, eq. 10; Li & Gal 2017, eq. 7",
    )
    by_values = True

    def __init__(
        self, likelihood: Likelihood, alpha: float = 0.5, *, weights: Tensor | None = None
    ) -> None:
        super().__init__(weights=weights)
        if alpha == 0 or not math.isfinite(alpha):
            raise UsageError(
                f"alpha of alpha_divergence is {alpha}, but must be finite and not 0; the limit "
                f"0 is expected_nll"
            )
        self.likelihood = likelihood
        self.alpha = alpha

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`."""
        if self.likelihood.joint and target.dim() > 1:
            log_p = log_prob_of(self.likelihood, outputs, target, weight)
            return -log_mean_exp(self.alpha * log_p, samples, group) / self.alpha
        of = self.likelihood.log_prob if target.dim() == 1 else self.likelihood.of_values
        each = -log_mean_exp(self.alpha * of(outputs, target), samples, group) / self.alpha
        return over_values(each, weight)


class PredictiveNLL(AlphaDivergence):
    """Negative log likelihood of the mixture of all S samples, not of each sample.

    For classes this is the cross-entropy of the averaged probabilities; the paper notes that for
    this loss averaging gradients over ranks turns the arithmetic mean into a geometric one.
    """

    about = About(
        formula="-log mean_s p(t | y_s)",
        kind="mixture",
        exchanges=(Shared("maximum", 4, "B"), Shared("sum of exp", 4, "B")),
        cost="S log densities",
        source="the paper's section 4.1",
    )
    by_values = True

    def __init__(self, likelihood: Likelihood, *, weights: Tensor | None = None) -> None:
        super().__init__(likelihood, 1.0, weights=weights)


class GaussianMixtureNLL(PredictiveNLL):
    """Negative log density of a mixture of S normals whose means and widths are predicted.

    Parameters
    ----------
    likelihood
        A :class:`~hpcsamp.losses.likelihoods.PredictedGaussian`, which defines the meaning of the
        outputs (default: one with its default arguments).

    Raises
    ------
    UsageError
        If the likelihood is not a ``PredictedGaussian``.
    """

    usual_likelihood = "predicted_gaussian"
    about = About(
        formula="-log mean_s N(t; mu_s, std_s)",
        kind="mixture",
        exchanges=(Shared("maximum", 4, "B"), Shared("sum of exp", 4, "B")),
        cost="S log densities",
        source="Lakshminarayanan et al. 2017, section 2.4, unapproximated",
    )
    by_values = True

    def __init__(
        self, likelihood: Likelihood | None = None, *, weights: Tensor | None = None
    ) -> None:
        super().__init__(need_predicted("gaussian_mixture_nll", likelihood), weights=weights)
