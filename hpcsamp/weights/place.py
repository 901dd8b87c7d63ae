"""Identify a pass of a module, which determines the random numbers that the module draws in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class MaskSet:
    """Fixed masks of each layer (:mod:`hpcsamp.weights.routing.masksembles`).

    Attributes
    ----------
    count
        Number of masks n; sample s has mask ``s mod n``.
    scale
        Width of the layer before unused units are removed, over the number of ones of a mask; 1 for
        masks of ones only.
    """

    count: int
    scale: float


@dataclass(frozen=True, slots=True)
class Masks:
    """How Monte Carlo dropout draws the masks of a module.

    Attributes
    ----------
    rate
        Probability of dropping a unit in all calls; None for the rate of each call.
    shared
        Whether all items and positions of a sample share one mask, which defines a sub-network.
    fixed
        The fixed masks that replace random ones; None for random masks.
    """

    rate: float | None = None
    shared: bool = False
    fixed: MaskSet | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Identifies a pass, and the streams of its random numbers.

    Attributes
    ----------
    seed
        Seed of the run.
    step
        Training step, a number or a scalar int64 tensor on the device; 0 in prediction, whose draws
        do not depend on it.
    samples
        Indices of the ``k`` samples.
    index
        ``(B,)`` int64, positions of the items in their split; None: ``0 .. B-1``.
    prediction
        Whether the streams are those of prediction.
    trial
        Whether the pass only probes the module (admission, observation, a measurement): it must
        exchange nothing between ranks and advance no state.
    masks
        How masks are drawn, if the method defines it; None: as the module requests them.
    """

    seed: int
    step: int | Tensor
    samples: Sequence[int]
    index: Tensor | None = None
    prediction: bool = False
    trial: bool = False
    masks: Masks | None = None

    def some(self, rows: Sequence[int]) -> Place:
        """Return the place of some of the samples."""
        return replace(self, samples=[self.samples[row] for row in rows])
