"""Base classes of the tables of the configuration, and marks for the effect of each key."""

from __future__ import annotations

from typing import Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError

from hpcsamp.config.kinds import refused
from hpcsamp.registry import Registry

#: Marks of keys that do not change the weights of a run, so they may differ when it is resumed.
#: ``RESULTS``: the key affects the evaluation or the length of the run; ``NOTHING``: neither.
RESULTS: dict[str, Any] = {"changes": "results"}
NOTHING: dict[str, Any] = {"changes": "nothing"}

#: Upper bounds of the number of samples and of other counts: a larger number is a typing mistake.
SAMPLES = 10**6
MOST = 10**9


class Section(BaseModel):
    """A table of the configuration: immutable, with strict types and without unknown keys.

    Values are not converted from other types: ``"3"`` is not a number and ``"no"`` is not false.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _of_its_kind(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        result = validate(value)
        reason = "" if isinstance(result, BaseModel) else refused(value, result)
        if reason:
            raise PydanticCustomError("kind", "{reason}", {"reason": reason})
        return result


class OpenSection(Section):
    """A table whose additional keys are arguments of the class that it names."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the class, which checks them itself."""
        return dict(self.model_extra or {})


def one_of(registry: Registry) -> AfterValidator:
    """Validator: a registered name, ``package.module:Class`` or a reserved word."""

    def check(value: str) -> str:
        fault = registry.fault(value)
        if fault and value not in registry.words:
            raise PydanticCustomError("name", "{fault}", {"fault": fault})
        return value

    return AfterValidator(check)


def per_pass(value: Any, most: int, most_text: str) -> Any:
    """Check a number of samples per pass: ``"auto"``, or an integer from 1 to ``most``.

    ``most_text`` is the upper bound as shown in the error message.
    """
    count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    if value == "auto" or count:
        return value
    reason = f'must be "auto" or a whole number from 1 to {most_text}'
    raise PydanticCustomError("kind", "{reason}", {"reason": reason})
