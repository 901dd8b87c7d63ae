"""Which network is trained."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from hpcsamp.config.section import NOTHING, OpenSection, one_of
from hpcsamp.names import MODELS


class ModelSection(OpenSection):
    """``[model]``: a network by name and its arguments.

    Where the class has an argument that is called like one of the :attr:`SHARED` keys, it is that
    argument.
    """

    SHARED: ClassVar[frozenset[str]] = frozenset(
        {"head", "output", "weights", "weights_strict", "freeze", "batch_norm"}
    )
    name: Annotated[str, one_of(MODELS)] = Field(
        description="a registered model, e.g. mlp or vit, or package.module:Class"
    )
    head: Any = Field(
        None, description="layer that is replaced by one with the outputs that the data ask for"
    )
    output: Any = Field(
        None, description="which of several tensors that the network returns, e.g. logits"
    )
    weights: Any = Field(
        None,
        description="initial weights: a .safetensors or .pt file, or the folder of a run",
        json_schema_extra=NOTHING,
    )
    weights_sha256: str | None = Field(
        None, description="checksum of these weights, written by the run"
    )
    weights_strict: Any = Field(
        None, description="false: names and shapes of model.weights need not all fit the network"
    )
    freeze: Any = Field(
        None, description='parameters that are not trained, by patterns, e.g. ["layer1.*"]'
    )
    batch_norm: Any = Field(
        None,
        description="batch: normalise by the whole batch of a step, over all ranks (default); "
        "frozen: by the running statistics; group: by group normalisation instead",
    )

    @property
    def shared(self) -> dict[str, Any]:
        """Given keys that may be arguments of the class."""
        given = {key: getattr(self, key) for key in sorted(self.SHARED)}
        return {key: value for key, value in given.items() if value is not None}
