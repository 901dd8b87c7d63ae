"""The table ``[likelihood]``: the distribution of a target given the network's output."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hpcsamp.config.section import OpenSection, one_of
from hpcsamp.names import LIKELIHOODS


class LikelihoodSection(OpenSection):
    """``[likelihood]``: the distribution of a target given the network's output.

    Additional keys are arguments of its class, e.g. ``std = 0.2`` for known noise.
    """

    name: Annotated[str, one_of(LIKELIHOODS)] | None = Field(
        None,
        description="a registered likelihood, or package.module:Class; default: the usual one for "
        "the task and the loss",
    )

    @property
    def table(self) -> dict[str, Any]:
        """Return the name and arguments that are set."""
        return self.model_dump(exclude_none=True)
