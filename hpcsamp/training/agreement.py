"""The one small exchange of a step: what the loss was, whether it is finite, who wants to stop.

It is under way while this rank computes its gradients, so nobody waits for a message: what is left
of it is the time by which ranks are apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.grid import Topology, together
from hpcsamp.losses import Parts
from hpcsamp.training.preemption import Wish
from hpcsamp.watchdog import Doing, here


class Agreement:
    """What the ranks say to each other about a step. Collective over the world, as is :meth:`end`.

    Parameters
    ----------
    topology
        The grid.
    mine
        This rank's parts of the loss, which add up over the sample group.
    wishes
        What this rank wishes.
    """

    def __init__(self, topology: Topology, mine: Parts, wishes: Wish = Wish.NONE) -> None:
        self.topology, self.mine = topology, mine
        wanted = [float(wish in wishes) for wish in Wish]
        self._told = np.array([mine.data, mine.penalty, *wanted])
        self._heard = np.empty_like(self._told)
        self._request = topology.world.Iallreduce(self._told, self._heard)

    def end(self, when: str, samples: Iterable[tuple[int, Tensor]]) -> tuple[Parts, Wish]:
        """The loss of the step and the union of all ranks' wishes, the same on all of them.

        Parameters
        ----------
        when
            For the message, e.g. ``step 12 (epoch 1)``.
        samples
            ``(sample, numbers)`` of this rank; looked through only if something is wrong, to say
            which sample it was.

        Raises
        ------
        DivergedError
            If the loss of any rank is not finite: naming step, rank and sample, on all ranks.
        """
        with here.waiting(Doing.AGREEMENT):
            self._request.Wait()
        data, penalty, *wanted = self._heard.tolist()
        if not math.isfinite(data + penalty):
            self._diverged(when, samples)
        groups = self.topology.data_size * self.topology.model_size  # each has the whole loss
        wishes = Wish.NONE
        for wish, ranks in zip(Wish, wanted, strict=True):
            if ranks > 0:
                wishes |= wish
        return Parts(data / groups, penalty / groups), wishes

    def _diverged(self, when: str, samples: Iterable[tuple[int, Tensor]]) -> None:
        rank = self.topology.rank
        with together(self.topology.world):
            for sample, numbers in samples:
                if not bool(numbers.isfinite().all()):
                    raise DivergedError(
                        f"the loss is not finite at {when}: rank {rank}, sample {sample}; lower "
                        f"optimizer.lr, clip gradients (optimizer.clip), or look at the data"
                    )
        # every sample's outputs are finite: it is the loss or the penalty itself
        mine = self.mine.data + self.mine.penalty
        with together(self.topology.world):
            if not math.isfinite(mine):
                raise DivergedError(
                    f"the loss is not finite at {when}: {mine} on rank {rank}, though the outputs "
                    f"of all samples are"
                )
        raise DivergedError(f"the loss is not finite at {when}, though that of every rank is")
