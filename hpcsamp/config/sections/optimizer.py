"""The table ``[optimizer]``: the optimiser, and parameter groups with settings of their own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hpcsamp.config.section import NOTHING, OpenSection


class GroupSection(OpenSection):
    """One of ``[[optimizer.groups]]``: a parameter group with settings of its own."""

    pattern: str = Field(
        "*", min_length=1, description="pattern of the names of the parameters, e.g. head.*"
    )
    of: Literal["mean", "log_std"] | None = Field(
        None, description="restrict the group to the means or standard deviations of the weights"
    )
    lr: float | None = Field(None, ge=0, description="learning rate, instead of optimizer.lr")

    @property
    def options(self) -> dict[str, Any]:
        """Settings of this group that replace those of ``[optimizer]``."""
        own = {} if self.lr is None else {"lr": self.lr}
        return {**own, **(self.model_extra or {})}


class OptimizerSection(OpenSection):
    """``[optimizer]``: any optimiser of ``torch.optim``; additional keys are its arguments."""

    name: str = "Adam"
    lr: float = Field(1e-3, gt=0)
    clip: float | None = Field(None, gt=0, description="clip the gradient to this norm")
    sharded: bool | Literal["weights"] = Field(
        False,
        description="true: each rank of a sample group stores and updates 1/P of the optimiser "
        'state; "weights": also 1/P of the weights and their gradient (mean_field)',
        json_schema_extra=NOTHING,
    )

    groups: list[GroupSection] = Field(
        default_factory=list,
        description="parameter groups with a learning rate, weight decay ... of their own, "
        "selected by patterns of names",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the optimiser: the learning rate and all additional keys."""
        return {"lr": self.lr, **(self.model_extra or {})}
