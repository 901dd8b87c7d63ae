"""The table ``[loss]``: the loss function."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import MOST, NOTHING, OpenSection, one_of
from hpcsamp.names import KL, LOSSES, Memory


class LossSection(OpenSection):
    """``[loss]``: the loss function; additional keys are arguments of its class."""

    name: Annotated[str, one_of(LOSSES)] = Field(
        "expected_nll", description="a registered loss, or package.module:Class"
    )
    exact: bool = Field(
        True,
        description="true: evaluate the loss of all samples together; false: average the losses "
        "of the ranks, as in the paper",
    )
    temperature: float = Field(
        1.0, ge=0, description="factor of the KL term; 1 is the Bayesian posterior"
    )
    kl_warmup_epochs: float = Field(
        0.0,
        ge=0,
        le=MOST,
        description="epochs over which the factor of the KL term grows from 0 to its final value",
    )
    kl: KL = Field(
        "analytic",
        description="compute the KL term analytically, or estimate it from the log densities of "
        "the weight samples",
    )
    memory: Memory = Field(
        "auto",
        description="activations to keep in memory for the backward pass",
        json_schema_extra=NOTHING,
    )
