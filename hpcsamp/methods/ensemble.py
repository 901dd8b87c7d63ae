"""Deep ensembles: each sample is a member with its own weights.

(Lakshminarayanan, Pritzel and Blundell 2017.) Each member starts from its own initial weights and,
if ``augment.share = "sample"``, sees its own views of the batch. With ``prior_std`` each member is
a maximum a posteriori estimate; ``anchored`` centres its prior at a draw from the prior (Pearce et
al. 2020), so that members stay apart where the data do not determine them:

    loss of member s = mean NLL + |w_s - a_s|^2 / (2 N prior_std^2),        a_s ~ N(0, prior_std^2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.members import Members
from hpcsamp.streams import Purpose


class Ensemble(Members):
    """S networks that are trained side by side and averaged in prediction.

    Parameters
    ----------
    network, samples, own, prior_std, others
        See :class:`~hpcsamp.methods.members.Members`.
    anchored
        Centre each member's prior at a draw from it; needs ``prior_std``.

    Attributes
    ----------
    anchors
        ``(s, n)`` draws from the prior, from the member's stream; None without anchors. They are
        drawn again rather than saved in checkpoints.

    Raises
    ------
    UsageError
        If anchors are requested without a prior.
    """

    in_parts = True
    anchors: Tensor | None

    def __init__(
        self,
        network: Callable[[int], nn.Module] | nn.Module,
        samples: int,
        own: range | None = None,
        *,
        prior_std: float | None = None,
        anchored: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(network, samples, own, prior_std=prior_std, **others)
        anchors = None
        if anchored:
            if prior_std is None:
                raise UsageError("method.anchored needs method.prior_std to draw anchors from")
            anchors = torch.empty_like(self.weights.detach())
            self.layout.draw(anchors, self.seed, Purpose.CENTRES, 0, self.members)
            anchors.mul_(prior_std)
        self.register_buffer("anchors", anchors, persistent=False)
        self.trains_with_noise = anchored

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """See :meth:`Members.penalty`; weights are measured from the anchors, if there are any."""
        if self.anchors is None or self.prior_std is None:
            return super().penalty(part, parts)
        square = self._squares(self.weights - self.anchors)
        return square / (2 * self.prior_std**2 * self.samples)
