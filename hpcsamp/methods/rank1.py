"""Rank-1 Bayesian networks: normal posteriors of rank-1 factors, point estimates of the weights.

    y_s = ((x * r_s) W^T) * s_s + b,        r_s, s_s = mean + exp(log_std) * eps_s

(Dusenberry et al. 2020, with one component.) The posterior of the factors of each linear layer and
convolution is that of mean-field VI, around a prior N(1, prior_std^2). All other parameters are
deterministic: a maximum a posteriori estimate. The loss is

    mean NLL + (KL(q(r, s) || prior) + |W|^2 / (2 weight_std^2)) / N
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.decay import squares
from hpcsamp.methods.factors import add_factors, is_factor
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.weights.variables import deterministic_of


class Rank1(MeanField):
    """Mean-field normal posterior over factors of rank 1 of a module's layers.

    Parameters
    ----------
    module
        A plain ``nn.Module``. Its linear layers and convolutions get factors in place
        (:func:`~hpcsamp.methods.factors.add_factors`).
    prior_std, initial_std
        Standard deviations of the factors' prior around 1, and of their initial posterior.
    weight_std
        Standard deviation of a normal prior around 0 of the other parameters; None for no prior.
    antithetic, autocast
        See :class:`~hpcsamp.methods.mean_field.MeanField`.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.

    Raises
    ------
    UsageError
        If a value is out of range, or no layer can have factors.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prior_std: float = 0.1,
        initial_std: float = 0.05,
        weight_std: float | None = None,
        antithetic: bool = False,
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        if weight_std is not None and not weight_std > 0:
            raise UsageError(f"method.weight_std = {weight_std} must be greater than 0")
        add_factors(module, "rank1")
        super().__init__(
            module,
            prior_mean=1.0,
            prior_std=prior_std,
            initial_std=initial_std,
            antithetic=antithetic,
            bayesian=is_factor,
            seed=seed,
            samples_per_pass=samples_per_pass,
            autocast=autocast,
        )
        self.weight_std = weight_std

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """See :meth:`MeanField.penalty`, with the prior of the deterministic parameters."""
        return super().penalty(part, parts) + self._of_weights(part, parts)

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """See :meth:`MeanField.log_ratio`, with the prior of the deterministic parameters."""
        return super().log_ratio(samples, step) + self._of_weights()

    def _of_weights(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return ``|W|^2 / (2 weight_std^2)`` in nats, or a share of it."""
        if self.weight_std is None or self.fixed is None:
            return self.mean.new_zeros(())
        layout, marked = self.variables.deterministic, deterministic_of(self.variables.module)
        return squares(self.fixed, layout, marked, part, parts) / (2 * self.weight_std**2)
