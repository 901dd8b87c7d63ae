"""How items lie on the model ranks of a run whose network is in parts."""

from __future__ import annotations

import math

from hpcsamp import models
from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import Part
from hpcsamp.layers import ImaginedAxis, ModelAxis, parts_of
from hpcsamp.losses import DataLoss
from hpcsamp.methods import Method
from hpcsamp.methods.spread import Spread
from hpcsamp.run.shapes import Shapes


def spread(method: Method, loss: DataLoss, shapes: Shapes, axis: ModelAxis, groups: bool) -> None:
    """Give a method and a loss what they must know of parts. Collective over the model axis.

    Parameters
    ----------
    method
        Of a network that was built along the axis; its :attr:`~hpcsamp.methods.Method.spread` is
        set.
    loss
        Its weights of values become those of this rank's values, if it takes parts.
    shapes
        Of the data.
    groups
        Whether the optimiser divides the parameters into groups.

    Raises
    ------
    UsageError
        If network, method or optimiser cannot be in parts.
    """
    network = method.networks[0]
    asked = f"parallel.model = {axis.size}"
    parts_of(network, axis.size)
    if shapes.targets.parts:
        raise UsageError(
            f"{asked}: a network in parts has one target, there are "
            f"{', '.join(shapes.targets.parts)}; set parallel.model = 1"
        )
    inputs, outputs = (getattr(network, f"{end}put_part", None) for end in ("in", "out"))
    of = type(network.network if isinstance(network, models.Wrapping) else network).__name__
    if inputs is None or outputs is None or not isinstance(shapes.x, tuple):
        raise UsageError(
            f"{asked}: {of} says nothing of which parts of an item it takes and gives "
            f"(input_part, output_part), as mixer does; set parallel.model = 1"
        )
    if groups:
        _check_groups(method, axis)
    method.check_parts()
    everyone = tuple(axis.comm.allgather(outputs(network.out_shape)))
    own, held = everyone[axis.rank], sum(part.size for part in everyone)
    if held != math.prod(own.shape) and not isinstance(axis, ImaginedAxis):
        raise UsageError(
            f"{asked}: the parts of the {math.prod(own.shape)} outputs of {of} are {held} in all: "
            f"it was built in one piece; pass a function that makes it of the layers of "
            f"hpcsamp.layers, or set parallel.model = 1"
        )
    if isinstance(network, models.LearnedNoise):  # whose first axis: means, and what is beside them
        own = Part(own.shape[1:], own.box[1:])
    loss.gathers = own.shape != shapes.y
    method.spread = Spread(inputs(shapes.x), everyone, own)
    if loss.takes_parts:
        loss.weights = method.spread.of_weights(loss.weights)


def _check_groups(method: Method, axis: ModelAxis) -> None:
    """Refuse groups of parameters where a model rank has nothing of a parameter. Collective.

    Elsewhere neighbours of it may be of one run, and here the states of optimisers would not match.
    """
    own = next((name for name, x in method.named_variational() if not x.numel()), None)
    for rank, name in enumerate(axis.comm.allgather(own)):
        if name is not None:
            raise UsageError(
                f"optimizer.groups cannot be had with parallel.model = {axis.size}, as model rank "
                f"{rank} has no number of {name}; leave one of them out"
            )
