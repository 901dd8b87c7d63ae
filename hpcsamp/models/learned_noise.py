"""Observation noise that is learnt beside a network, starting from the scale of the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import Flattened, Part
from hpcsamp.layers import current

FLOOR = 1e-5
"""Smallest standard deviation of the noise relative to that of the targets.

It keeps the noise above 0 if the residuals vanish."""


class Wrapping(nn.Module):
    """Base class of modules that transform the outputs of a network.

    Attributes
    ----------
    network
        The network; the names of its parameters get the prefix ``network.``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def takes_inputs_of(self) -> nn.Module:
        """The network, which defines the inputs (:class:`~hpcsamp.weights.calling.Caller`)."""
        return self.network

    @property
    def input_part(self) -> Callable[[Sequence[int]], Part]:
        """The part of an item that this rank's part of a split network reads."""
        network: Any = self.network
        found: Callable[[Sequence[int]], Part] = network.input_part
        return found


class LearnedNoise(Wrapping):
    """A network with a learnt standard deviation of observation noise for each output.

        means = mean + std * network(x),        log stds = log(std) + log_std

    with ``log_std`` initially 0.

    The likelihood ``learned_gaussian`` (:class:`hpcsamp.losses.LearnedGaussian`) reads both. With
    the mean and the standard deviation of the training targets, training does not depend on the
    units of the targets. ``log_std`` is a parameter without uncertainty: all methods optimise it,
    and none gives it a prior or draws it; ensembles and chains have one per member.

    Parameters
    ----------
    network
        Maps ``(B, ...)`` to ``(B, V)`` outputs, or any shape of V values an item. If it is split
        over model ranks, each rank has the noise of its own values.
    std, mean
        Scale and centre of the training targets: numbers, or arrays in the shape of a target.

    Raises
    ------
    UsageError
        If a standard deviation is not greater than 0, or if their number differs from that of the
        outputs (for a split network, already on construction).
    """

    #: Names of parameters that methods optimise without a prior and never draw.
    deterministic: ClassVar[tuple[str, ...]] = ("log_std",)
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, std: Any, mean: Any = 0.0) -> None:
        super().__init__(network)
        at, scale = map(_numbers, (mean, std))
        if not (np.isfinite(at).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise UsageError(
                "LearnedNoise: std and mean must be finite, and std greater than 0, as for targets "
                f"that vary; but std is from {scale.min():g} to {scale.max():g}, mean from "
                f"{at.min():g} to {at.max():g}"
            )
        if len({1, at.size, scale.size}) > 2:
            raise UsageError(f"LearnedNoise: {scale.size} values of std, but {at.size} of mean")
        count = max(at.size, scale.size)
        part = self._part(count)
        self.parts: dict[str, Part] = {}  # of a split network: parts on this rank
        # float64 until the module is converted, because targets may be far from 0
        for name, values in (("mean", at), ("std", scale)):
            buffer = torch.as_tensor(values)
            if not part.is_whole and len(buffer) == count:
                buffer, self.parts[name] = part.cut(buffer), part
            self.register_buffer(name, buffer, persistent=False)
        self.log_std = nn.Parameter(torch.zeros(part.local))
        self.parts["log_std"] = part

    def _part(self, count: int) -> Part:
        """The part of the standard deviations that belongs to this rank's outputs."""
        network: Any = self.network
        outputs = getattr(network, "output_part", None)
        own = None if outputs is None else outputs(network.out_shape)
        if own is None or own.is_whole:
            return Part.whole((count,))
        part = Flattened(own.shape, own.box)
        (values,) = part.whole_of((part.size,))
        if count != values:
            raise UsageError(
                f"LearnedNoise has {count} standard deviations, but {type(self.network).__name__}, "
                f"split over {current().size} model ranks, has {values} outputs; each needs one"
            )
        return part

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the means and log standard deviations of an item, before flattening."""
        network: Any = self.network
        return (2, *network.out_shape)

    @property
    def output_part(self) -> Callable[[Sequence[int]], Part]:
        """The part of the outputs on this rank: means and log standard deviations of its values."""
        network: Any = self.network
        of_network: Callable[[Sequence[int]], Part] = network.output_part

        def found(shape: Sequence[int]) -> Part:
            own = of_network(shape[1:])
            return Flattened((2, *own.shape), ((0, 2), *own.box))

        return found

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return ``(B, 2 V)``: means, then log standard deviations."""
        return self.beside(self.network(*inputs, **named), self.log_std)

    def beside(self, outputs: Tensor, log_std: Tensor, lead: int = 1) -> Tensor:
        """Return means and log standard deviations, from outputs of the network.

        Parameters
        ----------
        outputs
            ``(B, ...)``, or ``(s, B, ...)`` with ``lead = 2``.
        log_std
            :attr:`log_std`, or the tensor that is optimised in its place.

        Raises
        ------
        UsageError
            If an item does not have as many outputs as there are standard deviations.
        """
        outputs = outputs.flatten(lead) if outputs.dim() > lead else outputs[..., None]
        if len(log_std) not in (1, outputs.shape[-1]):
            raise UsageError(
                f"LearnedNoise has {len(log_std)} standard deviations, but "
                f"{type(self.network).__name__} has {outputs.shape[-1]} outputs"
            )
        kind = torch.promote_types(outputs.dtype, torch.float32)  # half precision has few digits
        mean, std = self.mean.to(kind), self.std.to(kind)
        # a smooth maximum of the noise and its floor
        least = float(np.log(FLOOR))
        width = least + F.softplus(log_std.to(kind) - least) + std.log()
        return torch.cat([mean + std * outputs.to(kind), width.expand(outputs.shape)], -1)


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.array(values, dtype=np.float64).reshape(-1)
