"""What is minimised, exactly: losses of all S outputs from samples spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    "make_likelihood",
]

LOSSES: dict[str, Callable[[Likelihood], DataLoss]] = {
    "expected_nll": ExpectedNLL,
    "predictive_nll": PredictiveNLL,
}
LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "categorical": Categorical,
    "gaussian": Gaussian,
}
_USUAL = {"classification": "categorical", "regression": "gaussian"}


def make_likelihood(task: str, arguments: dict[str, Any] | None = None) -> Likelihood:
    """The observation model of a configuration.

    Parameters
    ----------
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
    name = rest.pop("likelihood", _USUAL[task])
    _check_name("loss.arguments.likelihood", name, LIKELIHOODS)
    try:
        return LIKELIHOODS[name](**rest)
    except TypeError as e:
        raise UsageError(f"loss.arguments: {e}") from None


def make(name: str, task: str, arguments: dict[str, Any] | None = None) -> DataLoss:
    """A data loss by its name (a key of ``LOSSES``); the rest as in :func:`make_likelihood`."""
    _check_name("loss.name", name, LOSSES)
    return LOSSES[name](make_likelihood(task, arguments))


def _check_name(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UsageError(
            f"{what} = {name!r}{suggest(name, known)}; there is {', '.join(sorted(known))}"
        )
