"""Split items across the model ranks of a run whose network is model-parallel."""

from __future__ import annotations

import math

from hpcsamp import models
from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import Part
from hpcsamp.layers import ImaginedAxis, ModelAxis, parts_of
from hpcsamp.losses import DataLoss
from hpcsamp.methods import Method
from hpcsamp.methods.spread import Spread
from hpcsamp.run.shapes import DataShapes


def spread(
    method: Method, loss: DataLoss, shapes: DataShapes, axis: ModelAxis, groups: bool
) -> None:
    """Configure a method and a loss for split items. Collective over the model axis.

    Parameters
    ----------
    method
        Method whose network was built along the axis; sets its
        :attr:`~hpcsamp.methods.Method.spread`.
    loss
        If it accepts parts, its weights of values are restricted to those of this rank.
    shapes
        Shapes of the data.
    groups
        Whether the optimiser divides the parameters into groups.

    Raises
    ------
    UsageError
        If network, method or optimiser do not support split items.
    """
    network = method.networks[0]
    asked = f"parallel.model = {axis.size}"
    parts_of(network, axis.size)
    if shapes.targets.parts:
        raise UsageError(
            f"{asked}: a model-parallel network must have one target, but there are "
            f"{', '.join(shapes.targets.parts)}; set parallel.model = 1"
        )
    inputs, outputs = (getattr(network, f"{end}put_part", None) for end in ("in", "out"))
    of = type(network.network if isinstance(network, models.Wrapping) else network).__name__
    if inputs is None or outputs is None or not isinstance(shapes.x, tuple):
        raise UsageError(
            f"{asked}: {of} does not define which parts of an item it reads and returns "
            f"(input_part, output_part), as mixer does; set parallel.model = 1"
        )
    if groups:
        _check_groups(method, axis)
    method.check_parts()
    everyone = tuple(axis.comm.allgather(outputs(network.out_shape)))
    own, held = everyone[axis.rank], sum(part.size for part in everyone)
    if held != math.prod(own.shape) and not isinstance(axis, ImaginedAxis):
        raise UsageError(
            f"{asked}: {of} returns {held} outputs in all instead of {math.prod(own.shape)}, "
            f"because its layers are not split over the model ranks; pass a function that builds "
            f"it from the layers of hpcsamp.layers, or set parallel.model = 1"
        )
    if isinstance(network, models.LearnedNoise):  # first axis: means and parameters of the noise
        own = Part(own.shape[1:], own.box[1:])
    loss.gathers = own.shape != shapes.y
    method.spread = Spread(inputs(shapes.x), everyone, own)
    if loss.takes_parts:
        loss.weights = method.spread.of_weights(loss.weights)


def _check_groups(method: Method, axis: ModelAxis) -> None:
    """Refuse groups of parameters if a model rank holds no value of a parameter. Collective.

    Without it, neighbouring groups would be merged on this rank only, and the states of the
    optimisers would not match between ranks.
    """
    own = next((name for name, x in method.named_variational() if not x.numel()), None)
    for rank, name in enumerate(axis.comm.allgather(own)):
        if name is not None:
            raise UsageError(
                f"optimizer.groups cannot be combined with parallel.model = {axis.size}: model "
                f"rank {rank} holds no values of {name}; leave one of them out"
            )
