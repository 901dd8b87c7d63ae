"""The optimiser, and groups of parameters with settings of their own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hpcsamp.config.section import NOTHING, OpenSection


class GroupSection(OpenSection):
    """One of ``[[optimizer.groups]]``: parameters with settings of their own."""

    pattern: str = Field("*", min_length=1, description="names of parameters, e.g. head.*")
    of: Literal["mean", "log_std"] | None = Field(
        None, description="only the means or standard deviations of random weights"
    )
    lr: float | None = Field(None, ge=0, description="learning rate, instead of optimizer.lr")

    @property
    def options(self) -> dict[str, Any]:
        """What is different from the optimiser's own settings."""
        own = {} if self.lr is None else {"lr": self.lr}
        return {**own, **(self.model_extra or {})}


class OptimizerSection(OpenSection):
    """``[optimizer]``: any optimiser of ``torch.optim``, with its arguments."""

    name: str = "Adam"
    lr: float = Field(1e-3, gt=0)
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    sharded: bool | Literal["weights"] = Field(
        False,
        description="each rank of a sample group keeps and updates 1/P of the state; "
        '"weights": of the weights and their gradient, too (mean_field)',
        json_schema_extra=NOTHING,
    )

    groups: list[GroupSection] = Field(
        default_factory=list,
        description="parameters with a learning rate, weight decay ... of their own, by patterns "
        "of their names",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the fields above: passed to the optimiser."""
        return {"lr": self.lr, **(self.model_extra or {})}
