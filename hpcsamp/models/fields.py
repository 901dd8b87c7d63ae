"""Base class of networks for fields on a latitude-longitude grid, split over model ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from hpcsamp.grid.parts import Part
from hpcsamp.layers import ModelAxis


class FieldNetwork(nn.Module):
    """A network that maps fields to fields on the same grid, each model rank computing a part.

    Fields are split over the ranks of the channel axis, longitudes over those of the spatial axis.

    Attributes
    ----------
    name
        Name of the network, for messages.
    in_shape, out_shape
        ``(fields, latitudes, longitudes)`` of an item, and of its target.
    axis
        The model axis over which the network is split.
    """

    name: ClassVar[str]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    axis: ModelAxis

    def input_part(self, shape: Sequence[int]) -> Part:
        """The fields and longitudes of an item that this rank computes on.

        Parameters
        ----------
        shape
            Shape of the input of an item.

        Raises
        ------
        ValueError
            If the network was built for a different shape; the message contains both.
        """
        return self._part(shape, self.in_shape)

    def output_part(self, shape: Sequence[int]) -> Part:
        """The fields and longitudes of an item's target that this rank computes."""
        return self._part(shape, self.out_shape)

    def _part(self, shape: Sequence[int], own: tuple[int, int, int]) -> Part:
        if tuple(shape) != own:
            raise ValueError(
                f"items have shape {tuple(shape)}, but the {self.name} was built for {own}"
            )
        return self.axis.part(own, channels=0, space=2)
