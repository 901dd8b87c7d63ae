"""The table ``[augment]``: data augmentation."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hpcsamp.config.section import Section
from hpcsamp.names import Share


class AugmentSection(Section):
    """``[augment]``: data augmentation, drawn for each item and weight sample."""

    crop: int = Field(0, ge=0, le=10**5, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="mirror images left to right with probability 1/2")
    shift: bool = Field(False, description="periodic shift along the last axis (longitude)")
    transforms: list[dict[str, Any]] = Field(
        default_factory=list,
        description="transforms of torchvision.transforms.v2 with their arguments, "
        'e.g. {name = "RandomRotation", degrees = 10}',
    )
    share: Share = Field(
        "sample",
        description="unit that is augmented independently; with rank, the results depend on the "
        "number of ranks",
    )
    input: str | None = Field(
        None,
        description="name of the input to augment; default: the only input that is an image",
    )

    @property
    def active(self) -> bool:
        """Whether any augmentation is configured."""
        return bool(self.crop or self.flip or self.shift or self.transforms)
