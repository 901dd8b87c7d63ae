"""Check that an input has the shape and dtype a network was built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError


def one_shape(in_shape: Sequence[int] | Mapping[str, Sequence[int]], kind: str) -> tuple[int, ...]:
    """Return the shape of an item of the only input, for a network that takes one input.

    Raises
    ------
    UsageError
        If there are several inputs; the message names them.
    """
    if isinstance(in_shape, Mapping):
        raise UsageError(
            f"{kind} takes one input, but the dataset has {', '.join(in_shape)}; name a network of "
            f'your own that takes them by model.name = "package.module:Class"'
        )
    return tuple(in_shape)


def check_input(x: Tensor, in_shape: tuple[int, ...], model: nn.Module) -> None:
    """Check that a batch fits a network.

    Parameters
    ----------
    x
        The batch, which must be ``(B, *in_shape)``.
    in_shape
        Shape of an item that the network was built for.
    model
        The network; the batch must have the dtype of its parameters, unless autocast converts both.

    Raises
    ------
    UsageError
        If shape or type differ; the message contains both.
    """
    if tuple(x.shape[1:]) != in_shape:
        raise UsageError(
            f"inputs have shape {tuple(x.shape)}, but the model was built for items of shape "
            f"{in_shape}, that is (B, {', '.join(map(str, in_shape))})"
        )
    weight = next(model.parameters())
    if not x.is_floating_point():
        raise UsageError(
            f"inputs are integers ({x.dtype}), but the weights of {type(model).__name__} are "
            f"{weight.dtype}: ingest the inputs with --inputs numbers, or name a network that "
            f"embeds ids"
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise UsageError(
            f"inputs are {x.dtype}, but the model's weights are {weight.dtype}; convert the inputs"
        )
