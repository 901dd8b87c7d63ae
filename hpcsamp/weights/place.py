"""Which pass of a module this is: the name of what the module draws by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Masks:
    """How Monte Carlo dropout wants the masks of a module.

    Attributes
    ----------
    rate
        Chance of a unit to be dropped in all places; None: that of each call.
    shared
        Whether all items and positions of a sample have one mask: that of a sub-network.
    """

    rate: float | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Which pass this is.

    Attributes
    ----------
    seed
        Of the run.
    step
        Training step; 0 in prediction, whose draws do not depend on it.
    samples
        ``k`` numbers of the samples.
    index
        ``(B,)`` int64, positions of the items in their split; None: ``0 .. B-1``.
    prediction
        Whether the streams are those of prediction.
    trial
        Whether the pass only finds something out (admission, observation, a measurement): it must
        exchange nothing between ranks and advance no state.
    masks
        How masks are drawn, where the method says; None: as the module asks for them.
    """

    seed: int
    step: int
    samples: Sequence[int]
    index: Tensor | None = None
    prediction: bool = False
    trial: bool = False
    masks: Masks | None = None

    def some(self, rows: Sequence[int]) -> Place:
        """The place of some of the samples."""
        return replace(self, samples=[self.samples[row] for row in rows])
