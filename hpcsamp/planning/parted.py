"""A run whose network lies in parts on model ranks, as one of these has it, without the others."""

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
"""Model ranks that are thought of unasked: on more, a pass is mostly messages."""


@dataclass(frozen=True)
class Held:
    """What a model rank has of an item: of inputs, targets and outputs, each as part of the whole.

    All are 1 where the network is in one piece.

    Attributes
    ----------
    inputs, targets, outputs
        Numbers that the rank has over those of an item.
    size
        ``M``.
    """

    inputs: float = 1.0
    targets: float = 1.0
    outputs: float = 1.0
    size: int = 1

    @classmethod
    def of(cls, run: Run) -> Held:
        """Of a run on this rank of its model group."""
        spread = run.method.spread
        if spread is None:
            return cls()
        parted = run.data_loss.takes_parts  # others see whole outputs and targets
        inputs, outputs = (
            part.size / math.prod(part.shape) for part in (spread.inputs, spread.values)
        )
        own = outputs if parted else 1.0
        return cls(inputs, own, own, len(spread.outputs))

    def stored(self, shapes: DataShapes) -> float:
        """Bytes that the rank reads of an item, nearly: the arrays have other types on disk."""
        if self.size == 1:
            return float(shapes.item_bytes)
        x, y = shapes.batch_bytes(4) / 4, shapes.target_values
        return shapes.item_bytes * (self.inputs * x + self.targets * y) / max(1, x + y)


def blank(config: RunConfig, shapes: DataShapes, ranks: int = 1, model: int = 1) -> Run:
    """The run as the fullest of ``model`` ranks has it, of ``ranks`` that share its samples.

    Raises
    ------
    UsageError
        If network, method or loss cannot be in parts on so many model ranks, or augmentation would
        move values between these.
    """
    run = Run.blank(config, shapes, ranks, imagined(model))
    spread = run.method.spread
    if spread is not None and config.augment.active:
        check_box(config.augment, "x", spread.inputs.shape, spread.inputs.box)
        if isinstance(shapes.y, tuple) and run.data_loss.takes_parts:
            check_box(config.augment, "y", shapes.y, spread.values.box, True)
    return run


def network(config: RunConfig, shapes: DataShapes, model: int = 1) -> tuple[nn.Module, ModelAxis]:
    """The fullest model rank's part of the network on the meta device, and its imagined axis."""
    axis = imagined(model)
    with along(axis):
        return blank_network(config, shapes), axis


def inputs(
    shapes: DataShapes, spread: Spread | None, dtype: torch.dtype
) -> Callable[[int], Tensor]:
    """What makes the inputs of so many items on the meta device: the rank's part of each."""

    def batch(items: int) -> Tensor:
        if spread is None:
            return shapes.batch(items, dtype=dtype, device=torch.device("meta"))
        kind = torch.int64 if shapes.ids else dtype
        return torch.empty((items, *spread.inputs.local), dtype=kind, device="meta")

    return batch


def sizes(config: RunConfig, shapes: DataShapes, ranks: int) -> list[int]:
    """The sizes of a model axis that a run can have on some ranks.

    The network, the method and the loss are asked: each size is built along an imagined axis.

    Parameters
    ----------
    ranks
        Of the job; a size divides them.

    Returns
    -------
    list
        1 first, up to :data:`MOST`; nothing but the configuration's ``parallel.model`` if that is
        not 1.

    Raises
    ------
    UsageError
        If that one is impossible, with the reason.
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
