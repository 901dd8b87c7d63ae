"""How weights are sampled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from hpcsamp.config.section import NOTHING, SAMPLES, OpenSection, one_of, per_pass
from hpcsamp.names import METHODS, Strategy


class MethodSection(OpenSection):
    """``[method]``: how weights are sampled; further keys are arguments of the method's class."""

    name: Annotated[str, one_of(METHODS)] = Field(
        "mean_field",
        description="a registered method, e.g. mean_field or ensemble, or package.module:Class",
    )
    samples: int = Field(
        16, ge=1, le=SAMPLES, description="S, weight samples per step over a sample group"
    )
    samples_per_pass: Any = Field(
        "auto",
        description='samples evaluated at once, or "auto": what a short measurement finds fastest',
        json_schema_extra=NOTHING,
    )
    strategy: Strategy = Field(
        "auto", description="how they are evaluated at once", json_schema_extra=NOTHING
    )

    @field_validator("samples_per_pass")
    @classmethod
    def _chunk(cls, value: Any, info: ValidationInfo) -> Any:
        most = info.data.get("samples", SAMPLES)
        return per_pass(value, most, f"method.samples = {most}")

    @property
    def chunk(self) -> int:
        """Samples evaluated at once, 1 where that is to be measured."""
        return 1 if self.samples_per_pass == "auto" else int(self.samples_per_pass)
