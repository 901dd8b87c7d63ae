"""Losses and likelihoods by name, as configurations say them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.beta import BetaNLL
from hpcsamp.losses.crps import CRPS
from hpcsamp.losses.energy import EnergyScore
from hpcsamp.losses.expected import ExpectedNLL
from hpcsamp.losses.importance import ImportanceWeightedELBO
from hpcsamp.losses.likelihoods import (
    Categorical,
    Gaussian,
    LearnedGaussian,
    Likelihood,
    Poisson,
    PredictedGaussian,
    StudentT,
)
from hpcsamp.losses.mixture import AlphaDivergence, GaussianMixtureNLL, PredictiveNLL
from hpcsamp.losses.moments import GaussianMomentsNLL, MeanMSE
from hpcsamp.losses.values import latitude_weights
from hpcsamp.spelling import suggest

LOSSES: dict[str, type[DataLoss]] = {
    "expected_nll": ExpectedNLL,
    "beta_nll": BetaNLL,
    "predictive_nll": PredictiveNLL,
    "gaussian_mixture_nll": GaussianMixtureNLL,
    "alpha_divergence": AlphaDivergence,
    "importance_weighted_elbo": ImportanceWeightedELBO,
    "mean_mse": MeanMSE,
    "gaussian_moments_nll": GaussianMomentsNLL,
    "crps": CRPS,
    "energy_score": EnergyScore,
}
LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "categorical": Categorical,
    "gaussian": Gaussian,
    "learned_gaussian": LearnedGaussian,
    "predicted_gaussian": PredictedGaussian,
    "poisson": Poisson,
    "student_t": StudentT,
}
_ARGUMENTS = "loss.arguments"
_USUAL = {"classification": "categorical", "regression": "learned_gaussian"}


def make_likelihood(
    task: str, arguments: Mapping[str, Any] | None = None, loss: str = "expected_nll"
) -> Likelihood:
    """The observation model of a configuration: what outputs mean, in training and evaluation.

    Parameters
    ----------
    task
        ``"classification"`` or ``"regression"``: chooses the likelihood if none is named.
    arguments
        ``loss.arguments``: ``likelihood`` by name, its own arguments, and those of the loss.
    loss
        ``loss.name``. A loss without a likelihood says itself what it leaves to evaluation
        (:meth:`DataLoss.predictive`), unless the arguments name one.

    Raises
    ------
    UsageError
        For an unknown name, argument or type.
    """
    kind = _find(loss)
    own, rest = _shared_out(kind, arguments or {})
    if rest or task == "classification" or "likelihood" in _accepted(kind):
        return _likelihood(_name(kind, task, rest), rest)
    own.pop("latitudes", None)  # weights of values make no difference here
    return _construct(loss, kind, own).predictive()


def make(name: str, task: str, arguments: Mapping[str, Any] | None = None) -> DataLoss:
    """A data loss of a configuration.

    Parameters
    ----------
    name
        A key of ``LOSSES``, or a class of the user's own as ``package.module:Class``.
    task
        As in :func:`make_likelihood`.
    arguments
        Those of the loss; ``latitudes`` in degrees, one per row of an item, for weights by area;
        ``likelihood`` and its own arguments. A loss without a likelihood leaves that to evaluation.

    Raises
    ------
    UsageError
        For an unknown name or argument, or one of another type; a loss of values where the task has
        classes or the other way round; latitudes that are no numbers.
    """
    kind = _find(name)
    accepted = _accepted(kind)
    own, rest = _shared_out(kind, arguments or {})
    likelihood = _likelihood(_name(kind, task, rest), rest)
    if name in LOSSES:
        _check_task(name, task, likelihood if "likelihood" in accepted else None)
    if "likelihood" not in accepted and "likelihood" in rest and likelihood.parameters > 1:
        raise UsageError(
            f"loss.arguments.likelihood = {rest['likelihood']!r} reads {likelihood.parameters} "
            f"numbers of each value, {name} one: name one of "
            f"{', '.join(k for k, v in LIKELIHOODS.items() if v().parameters == 1)}"
        )
    return _construct(name, kind, own, likelihood)


def _shared_out(
    kind: type[DataLoss], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the loss, and those of its likelihood, by name among them."""
    names = _accepted(kind) - {"likelihood"}
    own = {k: v for k, v in arguments.items() if k in names}
    return own, {k: v for k, v in arguments.items() if k not in names}


def _construct(
    name: str, kind: type[DataLoss], own: dict[str, Any], likelihood: Likelihood | None = None
) -> DataLoss:
    """A loss from its own arguments, and a likelihood if it takes one."""
    program: dict[str, Any] = {}
    if "latitudes" in own:
        program["weights"] = latitude_weights(_degrees(own.pop("latitudes")))
    if likelihood is not None and "likelihood" in _accepted(kind):
        program["likelihood"] = likelihood
    made: DataLoss = free.construct(_ARGUMENTS, name, kind, own, **program)
    return made


def defaults(name: str, task: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all arguments of a loss and its likelihood that have one without being given.

    Parameters
    ----------
    name, task, arguments
        As in :func:`make`.
    """
    kind = _find(name)
    found = free.defaults(kind, {"weights", "likelihood"})
    _, rest = _shared_out(kind, arguments)
    if rest or "likelihood" in _accepted(kind):
        likelihood = _name(kind, task, rest)
        found |= {"likelihood": likelihood} | free.defaults(LIKELIHOODS[likelihood])
    return found


def _name(kind: type[DataLoss], task: str, arguments: Mapping[str, Any]) -> str:
    """Name of the likelihood: as given, else the usual one; with a ``std``, noise is fixed."""
    usual = kind.usual_likelihood or _USUAL[task]
    if usual == "learned_gaussian" and "std" in arguments:
        usual = "gaussian"
    name = arguments.get("likelihood", usual)
    _check_name("loss.arguments.likelihood", name, LIKELIHOODS)
    return str(name)


def _likelihood(name: str, arguments: Mapping[str, Any]) -> Likelihood:
    rest = {k: v for k, v in arguments.items() if k != "likelihood"}
    known = list(inspect.signature(LIKELIHOODS[name]).parameters)
    for argument in rest:
        if argument not in known:
            raise UsageError(
                f"unknown key 'loss.arguments.{argument}'{suggest(argument, known)}; the loss does "
                f"not know it, and the likelihood {name} takes {', '.join(known) or 'nothing'}"
            )
    made: Likelihood = free.construct(_ARGUMENTS, f"likelihood {name}", LIKELIHOODS[name], rest)
    return made


def _check_task(name: str, task: str, likelihood: Likelihood | None) -> None:
    classes = isinstance(likelihood, Categorical)
    if classes != (task == "classification"):
        named = "" if likelihood is None else f" with a {type(likelihood).__name__} likelihood"
        of, has = ("classes", "values") if classes else ("values", "classes")
        raise UsageError(
            f"loss.name = {name!r}{named} is a loss of {of}, but the targets of task = {task!r} "
            f"are {has}"
        )


def _degrees(given: Any) -> Sequence[float]:
    if (
        not isinstance(given, list)
        or not all(isinstance(d, int | float) for d in given)
        or any(isinstance(d, bool) for d in given)
    ):
        raise UsageError(
            f"loss.arguments.latitudes = {given!r}: degrees are needed, one for each row of an "
            f'item (or "data", in a run)'
        )
    return given


def _accepted(kind: type[DataLoss]) -> set[str]:
    """What a loss takes in a configuration; ``weights`` come from ``latitudes``."""
    names = set(free.accepted(kind))
    return names - {"weights"} | ({"latitudes"} if "weights" in names else set())


def _find(name: str) -> type[DataLoss]:
    if ":" not in name:
        _check_name("loss.name", name, LOSSES, ", or your own as package.module:Class")
        return LOSSES[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise UsageError(f"loss.name = {name!r}: {e}") from e
    if not (inspect.isclass(found) and issubclass(found, DataLoss)):
        raise UsageError(f"loss.name = {name!r} is not a subclass of hpcsamp.losses.DataLoss")
    return found


def _check_name(what: str, name: Any, known: Iterable[str], also: str = "") -> None:
    if not isinstance(name, str):
        raise UsageError(f"{what} = {name!r}: a name is needed, one of {', '.join(sorted(known))}")
    if name not in known:
        raise UsageError(
            f"{what} = {name!r}; there is {', '.join(sorted(known))}{also}{suggest(name, known)}"
        )
