"""Exchange the loss and requests to stop in each training step, in one small message.

On CPUs the exchange proceeds while this rank computes its gradients, so ranks do not wait for the
message itself, only for ranks that are late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from hpcsamp.errors import DivergedError
from hpcsamp.explain import more
from hpcsamp.grid import Topology, together
from hpcsamp.losses import Parts
from hpcsamp.training.preemption import Wish
from hpcsamp.watchdog import Doing, here


class Agreement:
    """The exchange of all ranks in a step. The constructor and :meth:`end` are collective.

    Parameters
    ----------
    topology
        Grid of ranks.
    read
        Returns this rank's parts of the loss, which are summed over the sample group. On a GPU this
        waits for the loss, so it is called by :meth:`end` only, when all further work of the
        backward pass has been passed to the GPU.
    wishes
        Requests of this rank, such as to stop.
    """

    def __init__(
        self, topology: Topology, read: Callable[[], Parts], wishes: Wish = Wish.NONE
    ) -> None:
        self.topology, self._read, self._wishes = topology, read, wishes
        self._request: Any = None
        if topology.device.type == "cpu":
            self._begin()

    def _begin(self) -> None:
        self.mine = self._read()
        wanted = [float(wish in self._wishes) for wish in Wish]
        self._sent = np.array([self.mine.data, self.mine.penalty, *wanted])
        self._received = np.empty_like(self._sent)
        self._request = self.topology.world.Iallreduce(self._sent, self._received)

    def end(self, when: str, samples: Iterable[tuple[int, Tensor]]) -> tuple[Parts, Wish]:
        """Return the loss of the step and the union of all requests, the same on all ranks.

        Parameters
        ----------
        when
            Description of the step for messages, e.g. ``step 12 (epoch 1)``.
        samples
            ``(sample, outputs)`` of this rank; only read if the loss is not finite, to find the
            sample.

        Raises
        ------
        DivergedError
            On all ranks, if the loss of any rank is not finite; the message contains step, rank and
            sample.
        """
        if self._request is None:
            self._begin()
        with here.waiting(Doing.AGREEMENT):
            self._request.Wait()
        data, penalty, *wanted = self._received.tolist()
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
                        f"optimizer.lr, clip gradients (optimizer.clip), or check the data"
                        f"{more('diverged')}"
                    )
        # the outputs of all samples are finite, but the loss or the penalty is not
        mine = self.mine.data + self.mine.penalty
        with together(self.topology.world):
            if not math.isfinite(mine):
                raise DivergedError(
                    f"the loss is not finite at {when}: {mine} on rank {rank}, although the "
                    f"outputs of all samples are finite"
                )
        raise DivergedError(
            f"the loss is not finite at {when}, although every rank reports a finite loss"
        )
