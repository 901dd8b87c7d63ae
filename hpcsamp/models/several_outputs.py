"""A network with one output for each of several targets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.models.learned_noise import Wrapping
from hpcsamp.weights.calling import entries


class Parted(Wrapping):
    """A network whose outputs are matched with several targets.

    Outputs with the names of targets belong to these; those of a tuple belong to the targets in
    order. If a network returns one tensor, it is split in the order of the targets.

    Parameters
    ----------
    network
        Any module.
    sizes
        Outputs per item of each target, by name.
    behind
        Modules that process the output of a target, by name, such as a
        :class:`~hpcsamp.models.LearnedNoise` of the identity.
    """

    def __init__(
        self, network: nn.Module, sizes: Mapping[str, int], behind: Mapping[str, nn.Module]
    ) -> None:
        super().__init__(network)
        self.sizes = dict(sizes)
        self._names = list(behind)  # these may not be valid names of modules
        self.behind = nn.ModuleList(behind.values())

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Tensor]:
        """Return the ``(B, ...)`` output of each target, by name."""
        found = parted(self.network(*inputs, **named), self.sizes, type(self.network).__name__)
        pairs = zip(self._names, self.behind, strict=True)
        return found | {name: further(found[name]) for name, further in pairs}


def parted(returned: Any, sizes: Mapping[str, int], of: str) -> dict[str, Tensor]:
    """Return the outputs of a network by the names of the targets, in their order.

    Parameters
    ----------
    returned
        Outputs of the network for a batch: a tensor, or tensors in a dictionary, tuple or
        dataclass.
    sizes
        Outputs per item that each target needs.
    of
        Name of the network, for messages.

    Raises
    ------
    UsageError
        If names or sizes do not match; the message contains both.
    """
    found = dict(entries(returned))
    asked = ", ".join(f"{name} {size}" for name, size in sizes.items())
    if len(found) == 1 and not set(found) & set(sizes):
        (one,) = found.values()
        flat = one.flatten(1) if one.dim() > 1 else one[:, None]
        if flat.shape[1] != sum(sizes.values()):
            raise UsageError(
                f"{of} has {flat.shape[1]} outputs per item, but the targets need "
                f"{sum(sizes.values())}: {asked}"
            )
        ends = itertools.accumulate(sizes.values())
        return {
            name: flat[:, end - size : end]
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
    there = ", ".join(f"{name} {tuple(t.shape[1:])}" for name, t in found.items()) or "none"
    if set(sizes) <= set(found):
        chosen = {name: found[name] for name in sizes}
    elif len(found) == len(sizes) and all(name.isdecimal() for name in found):
        chosen = dict(zip(sizes, found.values(), strict=True))
    else:
        raise UsageError(f"{of} has the outputs {there}, but the targets need {asked}")
    for name, t in chosen.items():
        if t.shape[1:].numel() != sizes[name]:
            raise UsageError(
                f"{of}: the output for {name} has {t.shape[1:].numel()} values per item, of shape "
                f"{tuple(t.shape[1:])}, but the target needs {sizes[name]} (outputs: {there}; "
                f"needed: {asked})"
            )
    return chosen
