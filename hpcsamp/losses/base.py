"""What a data loss is: a function of all S outputs, evaluated by every rank from shared statistics.

Per item, so that masks, weights and true item counts are applied in one place (:mod:`.elbo`). The
**sum** over the sample group of the ranks' gradients is the gradient of the sequential loss
(law 2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from hpcsamp.collectives import Collectives


class DataLoss(ABC):
    """A loss of the outputs of all samples.

    Attributes
    ----------
    linear
        Whether the loss is a mean over samples of something of each sample alone. Such a loss needs
        no exchange, and samples may be back-propagated one at a time.
    """

    linear: bool = False

    @abstractmethod
    def __call__(self, outputs: Tensor, target: Tensor, samples: int, group: Collectives) -> Tensor:
        """The loss of each item.

        Parameters
        ----------
        outputs
            ``(s, B, ...)``, the outputs of this rank's samples.
        target
            ``(B, ...)``.
        samples
            ``S``, over the whole sample group.
        group
            The exchange with the other ranks of the group; :class:`~hpcsamp.collectives.Alone` for
            a single process.

        Returns
        -------
        Tensor
            ``(B,)`` in nats: the group's value on every rank, with gradients of this rank's samples
            only.
        """


class LinearLoss(DataLoss):
    """A mean over samples: subclasses say what a single sample's loss is."""

    linear = True

    @abstractmethod
    def per_sample(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B)`` losses of ``(s, B, ...)`` outputs."""

    def __call__(self, outputs: Tensor, target: Tensor, samples: int, group: Collectives) -> Tensor:
        """``(B,)``, see :meth:`DataLoss.__call__`."""
        return group.sum_over_samples(self.per_sample(outputs, target).sum(0) / samples)
