"""Conformal sets of classes: all classes whose score is at most a threshold.

With the classes of an item in the order of their probabilities ``p_(1) >= p_(2) >= ...``, the score
of the k-th class is::

    lac     1 - p_(k)                                        (Sadinle et al. 2019)
    aps     p_(1) + ... + p_(k)                              (Romano et al. 2020, not randomised)
    raps    p_(1) + ... + p_(k) + penalty max(0, k - free)   (Angelopoulos et al. 2021)

The sets are not randomised, so that a set depends on its item alone. The most probable class always
belongs to the set, so the coverage is at least that of the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.calibration.quantile import at_most

SCORES = ("lac", "aps", "raps")
DIGITS = 12
"""Number of decimals to which probabilities are rounded when classes are ordered; ties keep
their order."""


def scores(kind: str, p: Tensor, penalty: float = 0.01, free: int = 5) -> Tensor:
    """Return the score of every class.

    Parameters
    ----------
    kind
        One of :data:`SCORES`.
    p
        ``(B, C)`` probabilities.
    penalty, free
        Parameters of ``raps``: penalty of each rank above ``free``.

    Returns
    -------
    Tensor
        ``(B, C)`` float64.
    """
    p = p.double()
    if kind == "lac":
        return 1 - p
    order = p.mul(10**DIGITS).round().argsort(dim=1, descending=True, stable=True)
    found = p.gather(1, order).cumsum(1)
    if kind == "raps":
        ranks = torch.arange(1, p.shape[1] + 1, dtype=torch.float64, device=p.device)
        found = found + penalty * (ranks - free).clamp_min(0)
    return torch.empty_like(found).scatter_(1, order, found)


def members(of_classes: Tensor, p: Tensor, threshold: float) -> Tensor:
    """Return which classes belong to the sets, ``(B, C)`` bool.

    Parameters
    ----------
    of_classes
        ``(B, C)`` scores.
    p
        ``(B, C)`` probabilities, whose largest is always in the set.
    """
    inside: Tensor = at_most(of_classes, threshold)
    top = p.double().mul(10**DIGITS).round().argmax(1, keepdim=True)
    return inside.scatter(1, top, True)
