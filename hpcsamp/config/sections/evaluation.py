"""The table ``[evaluation]``: the posterior predictive distribution and its metrics."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from hpcsamp.config.section import MOST, NOTHING, RESULTS, SAMPLES, Section, per_pass


class EvaluationSection(Section):
    """``[evaluation]``: the posterior predictive distribution and its metrics."""

    samples: int | None = Field(
        None,
        ge=1,
        le=SAMPLES,
        description="number of samples of the predictive distribution; default: all samples of "
        "the method, or the larger of 32 and method.samples if the method can draw any number",
        json_schema_extra=RESULTS,
    )
    batch: int = Field(
        256, ge=1, le=MOST, description="items evaluated at once", json_schema_extra=RESULTS
    )
    bins: int = Field(
        15, ge=2, le=10**5, description="bins of the calibration metrics", json_schema_extra=RESULTS
    )
    samples_per_pass: Any = Field(
        None,
        description='samples evaluated at once, or "auto"; default: method.samples_per_pass',
        json_schema_extra=NOTHING,
    )

    batch_norm: Literal["running", "estimated"] | None = Field(
        None,
        description="statistics used by batch normalisation: the running ones, or statistics "
        "estimated from the training set for each sample; default: estimated for swag, "
        "running otherwise",
        json_schema_extra=RESULTS,
    )
    batch_norm_items: int = Field(
        4096,
        ge=1,
        le=MOST,
        description="number of training items from which batch statistics are estimated",
        json_schema_extra=RESULTS,
    )

    @field_validator("samples_per_pass")
    @classmethod
    def _chunk(cls, value: Any) -> Any:
        return None if value is None else per_pass(value, SAMPLES, str(SAMPLES))
