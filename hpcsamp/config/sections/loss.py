"""What is minimised."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import MOST, NOTHING, OpenSection, one_of
from hpcsamp.names import KL, LOSSES, Memory


class LossSection(OpenSection):
    """``[loss]``: what is minimised; further keys are arguments of the loss's class."""

    name: Annotated[str, one_of(LOSSES)] = Field(
        "expected_nll", description="a registered loss, or package.module:Class"
    )
    exact: bool = Field(True, description="false: the paper's averaging of per-rank losses")
    temperature: float = Field(1.0, ge=0, description="factor of the KL; 1 is Bayes")
    kl_warmup_epochs: float = Field(
        0.0, ge=0, le=MOST, description="the KL's factor grows from 0 over these"
    )
    kl: KL = Field(
        "analytic", description="the KL by formula, or from the log densities of the draws"
    )
    memory: Memory = Field(
        "auto",
        description="which activations are kept for the backward pass",
        json_schema_extra=NOTHING,
    )
