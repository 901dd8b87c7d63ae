"""Build the part of a model-parallel network that one rank holds, without the other ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpcsamp.config import RunConfig
from hpcsamp.data.augment import check_box
from hpcsamp.errors import UsageError
from hpcsamp.grid import check_sizes
from hpcsamp.layers import Layer, ModelAxis, along, imagined
from hpcsamp.methods.spread import Spread
from hpcsamp.run.assemble import Run, blank_network
from hpcsamp.run.shapes import DataShapes

MOST = 64
"""Largest number of model ranks that is tried by default; with more, messages dominate a pass."""


@dataclass(frozen=True)
class Held:
    """Fractions of an item that a model rank holds: of its inputs, targets and outputs.

    All are 1 if the network is not split.

    Attributes
    ----------
    inputs, targets, outputs
        Number of values that the rank holds, divided by that of an item.
    size
        ``M``.
    """

    inputs: float = 1.0
    targets: float = 1.0
    outputs: float = 1.0
    size: int = 1

    @classmethod
    def of(cls, run: Run) -> Held:
        """Return the fractions that this rank of a model group holds."""
        spread = run.method.spread
        if spread is None:
            return cls()
        parted = run.data_loss.takes_parts  # other losses receive whole outputs and targets
        inputs, outputs = (
            part.size / math.prod(part.shape) for part in (spread.inputs, spread.values)
        )
        own = outputs if parted else 1.0
        return cls(inputs, own, own, len(spread.outputs))

    def stored(self, shapes: DataShapes) -> float:
        """Estimate how many bytes of an item the rank reads, without conversions of types."""
        if self.size == 1:
            return float(shapes.item_bytes)
        x, y = shapes.batch_bytes(4) / 4, shapes.target_values
        return shapes.item_bytes * (self.inputs * x + self.targets * y) / max(1, x + y)


def blank(config: RunConfig, shapes: DataShapes, ranks: int = 1, model: int = 1) -> Run:
    """Return the run of the rank with the largest part, for ``model`` model ranks among ``ranks``.

    Raises
    ------
    UsageError
        If the network, method or loss cannot be split over this number of model ranks, or
        if augmentation would move values between them.
    """
    run = Run.blank(config, shapes, ranks, imagined(model))
    spread = run.method.spread
    if spread is not None and config.augment.active:
        check_box(config.augment, "x", spread.inputs.shape, spread.inputs.box)
        if isinstance(shapes.y, tuple) and run.data_loss.takes_parts:
            check_box(config.augment, "y", shapes.y, spread.values.box, True)
    return run


def network(config: RunConfig, shapes: DataShapes, model: int = 1) -> tuple[nn.Module, ModelAxis]:
    """Return the largest part of the network, on the meta device, and the axis it was built for."""
    axis = imagined(model)
    with along(axis):
        return blank_network(config, shapes), axis


def inputs(
    shapes: DataShapes, spread: Spread | None, dtype: torch.dtype
) -> Callable[[int], Tensor]:
    """Return a function that creates a rank's part of a batch of n inputs, on the meta device."""

    def batch(items: int) -> Tensor:
        if spread is None:
            return shapes.batch(items, dtype=dtype, device=torch.device("meta"))
        kind = torch.int64 if shapes.ids else dtype
        return torch.empty((items, *spread.inputs.local), dtype=kind, device="meta")

    return batch


def sizes(config: RunConfig, shapes: DataShapes, ranks: int) -> list[int]:
    """Return the sizes of the model axis that are possible for a run on a number of ranks.

    Each size is tried: the run is built along an axis whose other ranks do not exist.

    Parameters
    ----------
    ranks
        Number of ranks of the job, which a size must divide.

    Returns
    -------
    list
        The sizes from 1 up to :data:`MOST`; only ``parallel.model`` of the configuration if it is
        not 1.

    Raises
    ------
    UsageError
        If the configured size is impossible; the message gives the reason.
    """
    asked = config.parallel.model
    if asked > 1:
        check_sizes(ranks, ranks, "world", asked)
        blank(config, shapes, model=asked)
        return [asked]
    whole, _ = network(config, shapes)
    if not any(isinstance(m, Layer) for m in whole.modules()):
        return [1]
    divisors = (m for m in range(2, min(ranks, MOST) + 1) if ranks % m == 0)
    return [1, *(m for m in divisors if _can(config, shapes, m))]


def _can(config: RunConfig, shapes: DataShapes, model: int) -> bool:
    try:
        blank(config, shapes, model=model)
    except UsageError:
        return False
    return True
