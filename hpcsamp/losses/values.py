"""Shape and weights of the values of an item, and their reduction to one number per item."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError


def wide(x: Tensor) -> Tensor:
    """Widen half precision to float32, which statistics of outputs need."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def like_target(outputs: Tensor, target: Tensor, parameters: int = 1) -> Tensor:
    """Reshape outputs to the shape of the target.

    Parameters
    ----------
    outputs
        ``(s, B, ...)``.
    target
        ``(B, ...)``.
    parameters
        ``k``, the number of parameters that the model predicts for each value.

    Returns
    -------
    Tensor
        ``(s, *target.shape)``, or ``(k, s, *target.shape)`` for k > 1: the first 1/k of an item's
        outputs are the first parameter of its values.

    Raises
    ------
    UsageError
        If the sizes differ.
    """
    if outputs.shape[1] != target.shape[0] or outputs[0].numel() != parameters * target.numel():
        per = "" if parameters == 1 else f" ({parameters} are needed for each value)"
        raise UsageError(
            f"the model has outputs of shape {tuple(outputs.shape[2:])} per item{per}; the targets "
            f"have shape {tuple(target.shape[1:])} (items: {outputs.shape[1]} and "
            f"{target.shape[0]})"
        )
    if parameters == 1:
        return outputs.reshape(outputs.shape[0], *target.shape)
    split = outputs.reshape(outputs.shape[0], target.shape[0], parameters, *target.shape[1:])
    return split.movedim(2, 0)


def fit_weight(target: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return the weight of every value: the weight of its position in the item times the mask.

    Parameters
    ----------
    target
        ``(B, ...)``.
    weights
        Broadcastable to an item's shape ``(...)``.
    mask
        Broadcastable to ``target``, with as many axes.

    Raises
    ------
    UsageError
        If a shape does not fit.
    """
    shape = tuple(target.shape)
    kind = target.dtype if target.is_floating_point() else torch.get_default_dtype()
    total = None
    if weights is not None:
        _check_fits("weights of the values", weights, shape[1:])
        total = weights.to(device=target.device, dtype=kind).expand(shape)
    if mask is not None:
        if mask.dim() != target.dim():
            raise UsageError(
                f"a mask of shape {tuple(mask.shape)} has {mask.dim()} axes, the target of shape "
                f"{shape} has {target.dim()}"
            )
        _check_fits("a mask", mask, shape)
        mask = mask.to(kind).expand(shape)
        total = mask if total is None else total * mask
    return total


def _check_fits(what: str, weights: Tensor, shape: tuple[int, ...]) -> None:
    try:
        fits = torch.broadcast_shapes(weights.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise UsageError(f"{what} of shape {tuple(weights.shape)} do not fit values {shape}")


_parted: list[Collectives] = []


@contextmanager
def in_parts(collectives: Collectives) -> Iterator[None]:
    """Within this context, each model rank holds only its own part of the values of an item.

    :func:`over_values` then sums over the parts of all ranks; a loss that is a function of such
    sums then has the same value on every rank, with the gradient of that rank's own values.
    """
    _parted.append(collectives)
    try:
        yield
    finally:
        _parted.pop()


def over_values(
    each: Tensor, weight: Tensor | None, *, average: bool = False, lead: int = 1
) -> Tensor:
    """Reduce values to one number per item: their weighted sum, or weighted sum over their number.

    Parameters
    ----------
    each
        ``(B, ...)``; with ``lead = 2``, ``(s, B, ...)``.
    weight
        ``(B, ...)`` or None.
    average
        Divide by the number of values. With weights of mean 1, this is the weighted mean.

    Raises
    ------
    UsageError
            If values are weighted, but the loss has only one number per item.
    """
    if weight is not None:
        if each.shape[lead - 1 :] != weight.shape:
            raise UsageError(
                f"the loss has shape {tuple(each.shape[lead - 1 :])}, but the weights of the "
                f"values have shape {tuple(weight.shape)}: a loss with one number per item cannot "
                f"weight or mask single values"
            )
        each = each * weight
    each = each.reshape(*each.shape[:lead], -1)
    if not _parted:
        return each.mean(-1) if average else each.sum(-1)
    c, values = _parted[-1], float(each.shape[-1])
    total = c.sum_over_model(each.sum(-1))
    return total / c.total(np.array([values]), "model")[0] if average else total


def latitude_weights(latitudes: Sequence[float]) -> Tensor:
    """Area weights of the rows of a latitude-longitude grid, ``cos(latitude)`` with mean 1.

    Parameters
    ----------
    latitudes
        Degrees, one per row; the rows are the last axis but one of an item.

    Returns
    -------
    Tensor
        ``(rows, 1)``.

    Raises
    ------
    UsageError
        If a latitude is not within -90 and 90 degrees, or if all rows have an area of 0.
    """
    for i, degrees in enumerate(latitudes):
        if not -90 <= degrees <= 90:
            raise UsageError(f"latitudes[{i}] = {degrees} is not within -90 and 90 degrees")
    cosines = [max(0.0, math.cos(math.radians(degrees))) for degrees in latitudes]
    if not sum(cosines) > 1e-12:
        raise UsageError(f"latitudes {list(latitudes)} are all at the poles, so no row has an area")
    weights = torch.tensor(cosines, dtype=torch.float64)[:, None]
    return weights / weights.mean()
