"""The table ``[method]``: the method of Bayesian inference and the evaluation of its samples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from hpcsamp.config.section import NOTHING, SAMPLES, OpenSection, one_of, per_pass
from hpcsamp.names import METHODS, Strategy


class MethodSection(OpenSection):
    """``[method]``: how weights are sampled; additional keys are arguments of the class."""

    name: Annotated[str, one_of(METHODS)] = Field(
        "mean_field",
        description="a registered method, e.g. mean_field or ensemble, or package.module:Class",
    )
    samples: int = Field(
        16,
        ge=1,
        le=SAMPLES,
        description="weight samples per step (S), distributed over the ranks of a sample group",
    )
    samples_per_pass: Any = Field(
        "auto",
        description='number of samples evaluated at once; "auto": the fastest number in a short '
        "measurement",
        json_schema_extra=NOTHING,
    )
    strategy: Strategy = Field(
        "auto",
        description="how several samples are evaluated at once",
        json_schema_extra=NOTHING,
    )

    @field_validator("samples_per_pass")
    @classmethod
    def _chunk(cls, value: Any, info: ValidationInfo) -> Any:
        most = info.data.get("samples", SAMPLES)
        return per_pass(value, most, f"method.samples = {most}")

    @property
    def chunk(self) -> int:
        """Number of samples evaluated at once; 1 if the number is still to be measured."""
        return 1 if self.samples_per_pass == "auto" else int(self.samples_per_pass)
