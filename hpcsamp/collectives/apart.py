"""Refuse ensembles whose members have equal initial weights and equal gradients."""

from __future__ import annotations

import math

import torch

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.collectives.sameness import agreed, hash_of
from hpcsamp.errors import UsageError
from hpcsamp.grid.placement import rows_of
from hpcsamp.methods.base import Method


class Apart:
    """Compare the members of a method at the start and, if they are equal, their first gradients.

    Collective over the sample group, as is :meth:`check`.

    Parameters
    ----------
    method, collectives
        Any method. Methods without members and methods that train with noise are not checked.
    """

    def __init__(self, method: Method, collectives: Collectives) -> None:
        self.method, self.collectives = method, collectives
        rows = rows_of(method.placement)
        self._equal = False
        if rows is None or rows.total == 1 or method.trains_with_noise:
            return
        held = {**method.constants_to_keep(), **dict(method.named_variational())}
        own = {
            tuple(hash_of(value[row].reshape(-1)) for value in held.values())
            for row in range(len(rows.held))
        }
        everyone = collectives.tell(own, "sample")
        self._equal = len(set().union(*everyone)) == 1

    def check(self, gradient: FlatGradient) -> None:
        """Compare the first gradients of members that started from equal weights.

        Raises
        ------
        UsageError
            On all ranks, if the gradients are also equal.
        """
        if not self._equal:
            return
        self._equal = False
        views = [p.grad.double().flatten(1) for p in gradient.parameters if p.grad is not None]
        rows = torch.cat(views, dim=1)
        mixed = torch.arange(rows.shape[1], device=rows.device).double().cos()
        own = list(zip(rows.norm(dim=1).tolist(), (rows @ mixed).tolist(), strict=True))
        found = [pair for pairs in self.collectives.tell(own, "sample") for pair in pairs]
        size = max(norm for norm, _ in found)
        limit = size * math.sqrt(torch.finfo(gradient.flat.dtype).eps)
        spread = max(max(column) - min(column) for column in zip(*found, strict=True))
        if spread > limit:
            return
        name = type(self.method).__name__
        raise agreed(
            UsageError(
                f"the {len(found)} members of {name} start from equal weights and have equal "
                f"gradients, so that all of them would become the same network; give each member "
                f"its own initial weights, {name}(lambda s: network_of_member(s), ...), in "
                f"hs.fit by a "
                f"function that makes the network, hs.fit(lambda: Net(), ...)"
                f"{', or prior_std and anchored=True' * hasattr(self.method, 'anchors')}"
            ),
            self.collectives,
        )
