"""Any callable as a loss, made exact by gathering all samples, or declared linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.losses.base import DataLoss
from hpcsamp.losses.pairwise import gather_samples

OutputsLoss = Callable[[Tensor, Tensor], Tensor]


class Custom(DataLoss):
    """``function(outputs, target)`` of the outputs ``(S, B, ...)`` of all samples.

    Parameters
    ----------
    function
        A function that returns ``(B,)`` losses.
    exactness
        ``"gather"``: every rank receives the outputs of all samples, ``4 S B V`` bytes a step;
        exact for any function. ``"linear"`` declares that the function is the mean over samples of
        a function of one sample: nothing is exchanged, and samples may be streamed. Check the
        declaration with :func:`~hpcsamp.losses.exactness.check_exactness`.

    Raises
    ------
    UsageError
        If ``exactness`` is neither of these.
    """

    def __init__(
        self, function: OutputsLoss, exactness: Literal["gather", "linear"] = "gather"
    ) -> None:
        super().__init__()
        if exactness not in ("gather", "linear"):
            raise UsageError(f'exactness must be "gather" or "linear", got {exactness!r}')
        self.function = function
        self.linear = exactness == "linear"

    def items(
        self,
        outputs: Tensor,
        target: Tensor,
        samples: int,
        group: Collectives,
        weight: Tensor | None,
    ) -> Tensor:
        """Return ``(B,)`` losses, see :meth:`DataLoss.items`.

        Raises
        ------
        UsageError
            If the function does not return ``(B,)``, or if values are weighted, which the function
            cannot take into account.
        """
        if weight is not None:
            raise UsageError(
                "a Custom loss cannot apply weights or masks to values; subclass "
                "StatisticsLoss or LinearLoss instead"
            )
        if self.linear:
            each = self._checked(outputs, target) * (len(outputs) / samples)
            return group.sum_over_samples(each)
        return self._checked(gather_samples(outputs, samples, group), target)

    def _checked(self, outputs: Tensor, target: Tensor) -> Tensor:
        each = self.function(outputs, target)
        if each.shape != target.shape[:1]:
            raise UsageError(
                f"a loss must return one number per item, shape {tuple(target.shape[:1])}; "
                f"{getattr(self.function, '__name__', 'the function')} returned "
                f"{tuple(each.shape)}"
            )
        return each
