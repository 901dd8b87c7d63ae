"""The squares of a normal prior of parameters that have no posterior: weight decay in nats."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from hpcsamp.grid import share
from hpcsamp.weights.layout import Layout


def squares(
    flat: Tensor, layout: Layout, without: Collection[str], part: int = 0, parts: int = 1
) -> Tensor:
    """Sum the squares of one of ``parts`` shares of parameters, except those without a prior.

    Parameters
    ----------
    flat
        ``(n,)`` parameters.
    layout
        Their layout.
    without
        Names of those that have no prior, such as those that a module marks as deterministic.
    part, parts
        The share.

    Returns
    -------
    Tensor
        A scalar; the sum over all shares is that of all parameters with a prior.
    """
    own = share(layout.size, parts, part)
    total = flat.new_zeros(())
    for start, stop, left_out in layout.runs(lambda v: v.name in without):
        lo, hi = max(start, own.start), min(stop, own.stop)
        if lo < hi and not left_out:
            total = total + flat[lo:hi].square().sum()
    return total
