"""Options of a configuration's model other than the arguments of its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hpcsamp import arguments as free
from hpcsamp.config import ModelSection
from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown

FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Suffixes of files with weights."""

NORMS = ("batch", "frozen", "group")
"""Choices for batch normalisation."""


@dataclass(frozen=True)
class Options:
    """Keys of ``[model]`` that are not arguments of the class.

    Attributes
    ----------
    head
        Name of the layer that is replaced by one with the number of outputs the data require.
    output
        Name of the output to use, if the network returns several tensors.
    weights
        File or folder of the initial weights.
    strict
        Whether the names and shapes of all these weights must match.
    freeze
        Patterns of the names of parameters that are not trained.
    batch_norm
        ``"batch"``, ``"frozen"`` or ``"group"``: how batch normalisation works in training.
    """

    head: str | None = None
    output: str | None = None
    weights: str | None = None
    strict: bool = True
    freeze: Sequence[str] = ()
    batch_norm: str = "batch"

    @classmethod
    def split(
        cls, given: Mapping[str, Any], kind: Callable[..., Any]
    ) -> tuple[Self, dict[str, Any]]:
        """Split the given keys into options and arguments of the class.

        Parameters
        ----------
        given
            Values of :attr:`ModelSection.SHARED` keys.
        kind
            The class or function that makes the network.

        Raises
        ------
        UsageError
            If an option has the wrong type.
        """
        known = free.accepted(kind)
        theirs = {
            key: value
            for key, value in given.items()
            # torchvision has its own argument weights, the name of weights to download
            if key in known and not (key == "weights" and _is_path(value))
        }
        own = {key: value for key, value in given.items() if key not in theirs}
        strict = own.pop("weights_strict", True)
        _check("weights_strict", strict, isinstance(strict, bool), "true or false")
        if type(own.get("output")) is int:  # an entry of a tuple
            own["output"] = str(own["output"])
        for key in ("head", "output", "weights"):
            value = own.get(key)
            _check(key, value, value is None or isinstance(value, str), "a string")
        freeze = own.get("freeze", ())
        patterns = isinstance(freeze, list | tuple) and all(isinstance(p, str) for p in freeze)
        _check("freeze", freeze, patterns, 'a list of patterns, e.g. ["layer1.*"]')
        norm = own.get("batch_norm", "batch")
        _check("batch_norm", norm, norm in NORMS, "batch, frozen or group")
        return cls(**own, strict=strict), theirs


def of(section: ModelSection, kind: Callable[..., Any]) -> tuple[Options, dict[str, Any]]:
    """Return the options of a configuration, and all arguments of its model's class."""
    options, theirs = Options.split(section.shared, kind)
    return options, section.arguments | theirs


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (
        value.endswith(FILES) or "/" in value or Path(value).exists()
    )


def _check(key: str, value: Any, right: bool, wanted: str) -> None:
    if not right:
        raise UsageError(f"model.{key} = {shown(value)}: {wanted} is needed")
