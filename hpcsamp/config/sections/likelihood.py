"""What an output means."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hpcsamp.config.section import OpenSection, one_of
from hpcsamp.names import LIKELIHOODS


class LikelihoodSection(OpenSection):
    """``[likelihood]``: what an output means; further keys are arguments of its class, e.g.
    ``std = 0.2`` of known noise.
    """

    name: Annotated[str, one_of(LIKELIHOODS)] | None = Field(
        None,
        description="a registered likelihood, or package.module:Class; without: the usual one of "
        "the task and the loss",
    )

    @property
    def table(self) -> dict[str, Any]:
        """What is given of name and arguments; empty where nothing is."""
        return self.model_dump(exclude_none=True)
