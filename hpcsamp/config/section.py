"""What every table of the configuration is, and the marks of its keys."""

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

#: Marks of a key that does not change the weights of a run: it may differ when a run goes on.
#: ``RESULTS``: it does change what is evaluated, or how far a run goes; ``NOTHING``: not even that.
RESULTS: dict[str, Any] = {"changes": "results"}
NOTHING: dict[str, Any] = {"changes": "nothing"}

#: More samples, or more of anything else, than a run can have: a slip of the keyboard.
SAMPLES = 10**6
MOST = 10**9


class Section(BaseModel):
    """A table of the configuration: no unknown keys, no value of another type (``"3"`` is no
    number, ``"no"`` is not false), immutable once read.
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
    """A table whose further keys are arguments of the class that it names."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class gets: it checks them."""
        return dict(self.model_extra or {})


def one_of(registry: Registry) -> AfterValidator:
    """Check that a value is a name of a registry, a place, or one of its other words."""

    def check(value: str) -> str:
        fault = registry.fault(value)
        if fault and value not in registry.words:
            raise PydanticCustomError("name", "{fault}", {"fault": fault})
        return value

    return AfterValidator(check)


def per_pass(value: Any, most: int, said: str) -> Any:
    """Check samples of a pass: ``"auto"``, or from 1 to ``most``, which messages call ``said``."""
    count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    if value == "auto" or count:
        return value
    reason = f'must be "auto" or a whole number from 1 to {said}'
    raise PydanticCustomError("kind", "{reason}", {"reason": reason})
