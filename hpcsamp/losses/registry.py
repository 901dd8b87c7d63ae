"""Make losses and likelihoods from a configuration's tables ``[loss]`` and ``[likelihood]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpcsamp import arguments as free
from hpcsamp.config import LossSection
from hpcsamp.errors import UsageError
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.class_weights import ClassWeights
from hpcsamp.losses.likelihoods import Likelihood
from hpcsamp.losses.values import latitude_weights
from hpcsamp.names import LIKELIHOODS, LOSSES, TASKS
from hpcsamp.spelling import hint


def make_likelihood(
    task: str,
    loss: str = "expected_nll",
    arguments: Mapping[str, Any] | None = None,
    likelihood: Mapping[str, Any] | None = None,
) -> Likelihood:
    """Make the observation model of a configuration, for training and evaluation.

    Parameters
    ----------
    task
        A key of ``TASKS`` or ``package.module:Class``: chooses the likelihood if none is named.
    loss, arguments, likelihood
        As in :func:`make`. Unless ``likelihood`` is given, a loss without a likelihood returns the
        observation model itself (:meth:`DataLoss.predictive`).

    Raises
    ------
    UsageError
        If a name, an argument or a type is unknown.
    """
    kind = LOSSES.find(loss)
    if likelihood or TASKS.find(task).labels or _takes_likelihood(kind):
        return _likelihood(kind, task, likelihood or {})
    own = {k: v for k, v in (arguments or {}).items() if k != "latitudes"}  # these set weights only
    return _construct(loss, kind, own).predictive()


def make(
    name: str,
    task: str,
    arguments: Mapping[str, Any] | None = None,
    likelihood: Mapping[str, Any] | None = None,
    class_weights: ClassWeights | None = None,
) -> DataLoss:
    """Make the data loss of a configuration.

    Parameters
    ----------
    name
        A key of ``LOSSES``, or a class of the user's own as ``package.module:Class``.
    task
        As in :func:`make_likelihood`.
    arguments
        Arguments of the loss; ``latitudes`` in degrees, one per row of an item, set area weights.
    likelihood
        ``name`` of a likelihood, a key of ``LIKELIHOODS`` or ``package.module:Class``, and its
        arguments. A loss without a likelihood uses it in evaluations only.
    class_weights
        Weights of values by their labels.

    Raises
    ------
    UsageError
        If a name or an argument is unknown, or an argument has a wrong type; if a loss of
        numeric targets is combined with a task with class labels, or the other way round; if
        latitudes are not numbers.
    """
    kind = LOSSES.find(name)
    given = likelihood or {}
    model = _likelihood(kind, task, given)
    takes = _takes_likelihood(kind)
    if name in LOSSES:
        _check_task(name, task, model if takes else None, given.get("name"))
    if not takes and "name" in given and model.parameters > 1:
        raise UsageError(
            f"likelihood.name = {given['name']!r} reads {model.parameters} outputs for each value, "
            f"but {name} reads one; set likelihood.name to one of "
            f"{', '.join(k for k, v in LIKELIHOODS.items() if v.parameters == 1)}"
        )
    made = _construct(name, kind, dict(arguments or {}), model)
    made.class_weights = class_weights
    return made


def defaults(
    name: str, task: str, likelihood: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Default values of the arguments of a loss, and the name and arguments of its likelihood.

    Parameters
    ----------
    name, task, likelihood
        As in :func:`make`.

    Returns
    -------
    loss, likelihood
        The second is empty if the loss has no likelihood and none is given.
    """
    kind = LOSSES.find(name)
    own = free.defaults(kind, {"weights", "likelihood"})
    if not likelihood and not _takes_likelihood(kind):
        return own, {}
    model = _name(kind, task, likelihood)
    return own, {"name": model} | free.defaults(LIKELIHOODS.find(model))


def _takes_likelihood(kind: type[DataLoss]) -> bool:
    return "likelihood" in free.accepted(kind)


def _construct(
    name: str, kind: type[DataLoss], own: dict[str, Any], likelihood: Likelihood | None = None
) -> DataLoss:
    """Construct a loss from its own arguments, and from a likelihood if it takes one."""
    _check_keys(name, kind, own)
    program: dict[str, Any] = {}
    if "latitudes" in own:
        program["weights"] = latitude_weights(_degrees(own.pop("latitudes")))
    if likelihood is not None and _takes_likelihood(kind):
        program["likelihood"] = likelihood
    made: DataLoss = free.construct("loss", name, kind, own, **program)
    return made


def _check_keys(name: str, kind: type[DataLoss], own: Mapping[str, Any]) -> None:
    """Refuse a key that the loss does not take; its ``weights`` come from ``latitudes``."""
    names = set(free.accepted(kind))
    known = names - {"weights", "likelihood"} | ({"latitudes"} if "weights" in names else set())
    for key in own.keys() - known:
        if any(key in free.accepted(v) for v in LIKELIHOODS.values()):
            mend = f"; it is a key of the likelihood: likelihood.{key}"
        else:
            mend = hint(f"loss.{key}", [f"loss.{k}" for k in (*known, *LossSection.model_fields)])
        raise UsageError(f"unknown key 'loss.{key}' for {name}{mend}")


def _name(kind: type[DataLoss], task: str, given: Mapping[str, Any]) -> str:
    """Name of the likelihood: the given name or a default, of fixed width if ``std`` is given."""
    usual = kind.usual_likelihood or TASKS.find(task).usual_likelihood
    if usual == "learned_gaussian" and "std" in given:
        usual = "gaussian"
    name: str = given.get("name", usual)
    return name


def _likelihood(kind: type[DataLoss], task: str, given: Mapping[str, Any]) -> Likelihood:
    name = _name(kind, task, given)
    rest = {k: v for k, v in given.items() if k != "name"}
    made: Likelihood = free.construct("likelihood", name, LIKELIHOODS.find(name), rest)
    if type(made).of_values is Likelihood.of_values and type(made).log_prob is Likelihood.log_prob:
        raise UsageError(f"likelihood.name = {name!r} defines neither of_values nor log_prob")
    return made


def _check_task(name: str, task: str, likelihood: Likelihood | None, own: str | None) -> None:
    if likelihood is not None and own is not None and own not in LIKELIHOODS:
        return  # a class of the user's, which may be for classes or numeric targets
    classes = likelihood is not None and likelihood.of_labels
    if classes != TASKS.find(task).labels:
        named = "" if likelihood is None else f" with a {type(likelihood).__name__} likelihood"
        of, has = ("classes", "numeric") if classes else ("numeric targets", "classes")
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
            f"loss.latitudes = {given!r} must be a list of degrees, one for each row of an item "
            f'(in a run, also "data")'
        )
    return given
