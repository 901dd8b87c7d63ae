"""Random views of the training items."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hpcsamp.config.section import Section
from hpcsamp.names import Share


class AugmentSection(Section):
    """``[augment]``: random views of the training items, keyed per item and sample."""

    crop: int = Field(0, ge=0, le=10**5, description="pixels of zero padding before a random crop")
    flip: bool = Field(False, description="mirror left to right, with probability 1/2")
    shift: bool = Field(False, description="periodic shift along the last axis (longitude)")
    transforms: list[dict[str, Any]] = Field(
        default_factory=list,
        description='torchvision.transforms.v2 by name, e.g. {name = "RandomRotation", ...}',
    )
    share: Share = Field(
        "sample", description="who sees a view of its own; rank depends on the number of ranks"
    )
    input: str | None = Field(
        None, description="which of several inputs; by default the only one that is an image"
    )

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.crop or self.flip or self.shift or self.transforms)
