"""The table ``[model]``: the network, its output layer and its initial weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from hpcsamp.config.section import NOTHING, OpenSection, one_of
from hpcsamp.names import MODELS


class ModelSection(OpenSection):
    """``[model]``: the network, by name; additional keys are arguments of its class.

    If the class has an argument with the name of one of the :attr:`SHARED` keys, the key sets that
    argument.
    """

    SHARED: ClassVar[frozenset[str]] = frozenset(
        {"head", "output", "weights", "weights_strict", "freeze", "batch_norm"}
    )
    name: Annotated[str, one_of(MODELS)] = Field(
        description="a registered model, e.g. mlp or vit, or package.module:Class"
    )
    head: Any = Field(
        None,
        description="name of the layer to replace by one with as many outputs as the dataset needs",
    )
    output: Any = Field(
        None,
        description="name of the tensor to use if the network returns several, e.g. logits",
    )
    weights: Any = Field(
        None,
        description="initial weights: a .safetensors or .pt file, or the folder of a run",
        json_schema_extra=NOTHING,
    )
    weights_sha256: str | None = Field(
        None, description="SHA-256 checksum of the file named by model.weights, written by the run"
    )
    weights_strict: Any = Field(
        None,
        description="false: load the tensors of model.weights that match the network by name and "
        "shape, and ignore the others",
    )
    freeze: Any = Field(
        None,
        description='patterns of the names of parameters that are not trained, e.g. ["layer1.*"]',
    )
    batch_norm: Any = Field(
        None,
        description="batch: normalise over the whole batch of a step, across all ranks (default); "
        "frozen: use the running statistics; group: replace it by group normalisation",
    )

    @property
    def shared(self) -> dict[str, Any]:
        """Return the shared keys that are set, which may be arguments of the class."""
        given = {key: getattr(self, key) for key in sorted(self.SHARED)}
        return {key: value for key, value in given.items() if value is not None}
