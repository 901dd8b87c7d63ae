"""What is minimised, exactly: losses of all S outputs from samples spread over ranks."""

from __future__ import annotations

from typing import Any

from hpcsamp.config import suggest
from hpcsamp.errors import UsageError
from hpcsamp.losses.base import DataLoss, LinearLoss
from hpcsamp.losses.elbo import ELBO
from hpcsamp.losses.expected import ExpectedNLL
from hpcsamp.losses.likelihoods import Categorical, Gaussian, Likelihood
from hpcsamp.losses.mixture import PredictiveNLL, log_mean_exp

__all__ = [
    "ELBO",
    "Categorical",
    "DataLoss",
    "ExpectedNLL",
    "Gaussian",
    "Likelihood",
    "LinearLoss",
    "PredictiveNLL",
    "log_mean_exp",
    "make",
]

LOSSES = {"expected_nll": ExpectedNLL, "predictive_nll": PredictiveNLL}
LIKELIHOODS = {"categorical": Categorical, "gaussian": Gaussian}
_USUAL = {"classification": "categorical", "regression": "gaussian"}


def make(name: str, task: str, arguments: dict[str, Any] | None = None) -> DataLoss:
    """A data loss by its name.

    Parameters
    ----------
    name
        A key of ``LOSSES``.
    task
        ``"classification"`` or ``"regression"``: chooses the likelihood if none is named.
    arguments
        ``likelihood`` by name, and its own arguments.

    Raises
    ------
    UsageError
        For an unknown name or argument.
    """
    rest = dict(arguments or {})
    likelihood = rest.pop("likelihood", _USUAL[task])
    for what, key, known in (
        ("loss.name", name, LOSSES),
        ("loss.arguments.likelihood", likelihood, LIKELIHOODS),
    ):
        if key not in known:
            raise UsageError(
                f"{what} = {key!r}{suggest(key, known)}; there is {', '.join(sorted(known))}"
            )
    try:
        return LOSSES[name](LIKELIHOODS[likelihood](**rest))
    except TypeError as e:
        raise UsageError(f"loss.arguments: {e}") from None
