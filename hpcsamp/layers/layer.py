"""Base class of layers whose parameters are split over the model ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import Interval, Merged, Part, bounds, within
from hpcsamp.layers.axis import ModelAxis, current
from hpcsamp.layers.exchange import gather
from hpcsamp.layers.group import Group
from hpcsamp.layers.product import Split
from hpcsamp.weights.pieces import parts_in


class Layer(nn.Module):
    """A layer that is split over the current model axis (:func:`~hpcsamp.layers.along`).

    No parameter is stored twice: if several ranks need one, each holds a share, and they gather it
    where it is used. Initial values are drawn whole and then cut, so they are the same on any
    number of ranks.

    Attributes
    ----------
    axis
        The model axis.
    parts
        The part of each of its own parameters that this rank holds, by name.
    inputs_per_output
        Fan-in, for initial standard deviations; 1 for a layer with vectors only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.axis: ModelAxis = current()
        self.parts: dict[str, Part] = {}
        self.inputs_per_output = 1

    def hold(self, name: str, whole: Tensor, box: Sequence[Interval], blocks: int = 1) -> None:
        """Register this rank's part of a parameter, cut from whole initial values.

        The initial values are the same on all ranks. With several blocks on the first axis, the
        part is cut from each of them.
        """
        rows, *others = whole.shape
        part = (
            Part((rows, *others), tuple(box))
            if blocks == 1
            else Merged((blocks, rows // blocks, *others), ((0, blocks), *box))
        )
        own = part.cut(whole)
        parameter = nn.Parameter(own if part.is_whole else own.clone())
        parameter.part = part  # type: ignore[attr-defined]
        self.parts[name] = part
        self.register_parameter(name, parameter)


class Divided:
    """An axis of channels (or of positions in space) that is split over a group of ranks.

    The ranks of the other direction need the same weights for a part of the axis; each of them
    holds a share of these.

    Parameters
    ----------
    layer, word
        Names for messages: the layer and e.g. ``"input channels"``.
    length
        Length of the axis.
    over, other
        Ranks with different parts of the axis, and those with the same part.
    unit
        Number of neighbours that stay together.

    Attributes
    ----------
    own, held
        The interval of this rank's part, and its share of that part.
    split, shares
        The split of the axis over ``over``, and of this rank's part over ``other``.

    Raises
    ------
    UsageError
        If there are fewer units than ranks; the message contains both numbers.
    """

    def __init__(
        self, layer: str, word: str, length: int, over: Group, other: Group, unit: int = 1
    ) -> None:
        if length // unit < over.size:
            raise UsageError(
                f"{layer} has {length // unit} {word}, which cannot be split over {over.size} "
                f"model ranks; use fewer model ranks (parallel.model)"
            )
        everyone = bounds(length, over.size, unit)
        self.length = length
        self.own = everyone[over.rank]
        self.split = Split(over, tuple(b - a for a, b in everyone))
        shares = [within(self.own, other.size, i) for i in range(other.size)]
        self.held = shares[other.rank]
        self.shares = Split(other, tuple(b - a for a, b in shares))

    def whole_part(self, x: Tensor, dim: int = -1) -> Tensor:
        """Gather a parameter for this rank's part of the axis; each rank holds a share of it."""
        return gather(x, dim, *self.shares)


def uniform(shape: Sequence[int], inputs: int) -> Tensor:
    """Initial values uniform within ``+- 1 / sqrt(inputs)``, as in torch's linear layers."""
    limit = 1 / math.sqrt(inputs)
    return torch.empty(tuple(shape)).uniform_(-limit, limit)


def parts_of(network: nn.Module, ranks: int = 1) -> dict[str, Part]:
    """Return the part of each parameter of a network that this rank holds, by qualified name.

    Parameters
    ----------
    ranks
        Number of model ranks to split over; the number of ranks of its layers, if that is larger.

    Raises
    ------
    UsageError
        If a network on several model ranks has parameters in a layer that cannot be split; the
        message names the layer.
    """
    found, size, plain, held = {}, ranks, "", parts_in(network)
    for path, module in network.named_modules():
        if isinstance(module, Layer):
            size = max(size, module.axis.size)
        for name, p in module.named_parameters(recurse=False):
            qualified = f"{path}.{name}" if path else name
            part = held.get(qualified, Part.whole(p.shape))
            if qualified not in held:
                kind = type(module).__name__
                plain = plain or (f"{path}, a {kind}," if path else f"{kind}, the network,")
            found[qualified] = part
    if size > 1 and plain:
        raise UsageError(
            f"{plain} holds its weights whole and cannot be split over {size} model ranks: build "
            f"the network from the layers of hpcsamp.layers, or set parallel.model = 1"
        )
    return found
