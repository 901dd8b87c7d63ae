"""Networks by name: ``mlp``, ``vit``, ``swin``, or anybody's own as ``package.module:Class``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.generators import lent
from hpcsamp.models.blank import blank
from hpcsamp.models.learned_noise import LearnedNoise
from hpcsamp.models.mlp import MLP
from hpcsamp.models.swin import Swin
from hpcsamp.models.vit import ViT
from hpcsamp.names import MODELS
from hpcsamp.streams import Purpose, key

__all__ = ["MLP", "MODELS", "LearnedNoise", "Swin", "ViT", "blank", "build"]

LAYERS = 5000
"""Most layers of a network, those within others counted as well."""


def build(
    name: str,
    arguments: Mapping[str, Any],
    in_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]],
    outputs: int,
    seed: int,
    member: int | None = None,
) -> nn.Module:
    """A network with initial parameters drawn from the seed.

    Parameters
    ----------
    name
        A registered name, or ``package.module:Class`` for a class of the user's own that takes
        ``in_shape`` and ``outputs``.
    arguments
        Further arguments of the class.
    in_shape
        Shape of an input item; of several inputs their shapes by name.
    outputs
        Number of outputs per item: classes, or target values.
    seed
        Seed of the run.
    member
        Which member of an ensemble it is for: each has initial parameters of its own.

    Raises
    ------
    UsageError
        For an unknown name or argument, or sizes that do not fit.
    """
    make = MODELS.find(name)
    # torch's initialisers draw from the global generator, those of the user perhaps from others
    with lent(key(seed, Purpose.INITIAL, *([] if member is None else [member])) & 0xFFFF_FFFF):
        program = {"in_shape": in_shape, "outputs": outputs}
        with _few_layers(name):
            made: nn.Module = free.construct("model", name, make, arguments, **program)
        return made


@contextmanager
def _few_layers(name: str) -> Iterator[None]:
    """Stop a network that is being built once it has more layers than :data:`LAYERS`."""
    count = 0

    def look(module: nn.Module, of: str, layer: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > LAYERS:
            raise UsageError(
                f"model.name = {name!r} has more than {LAYERS} layers with these sizes"
            )

    handle = register_module_module_registration_hook(look)
    try:
        yield
    finally:
        handle.remove()


def defaults(name: str) -> dict[str, Any]:
    """Default values of a model's arguments, by its name."""
    return free.defaults(MODELS.find(name), {"in_shape", "outputs"})


def output_size(task: str, classes: int | None, y_shape: tuple[int, ...]) -> int:
    """Outputs per item that a dataset asks for."""
    if task == "classification":
        assert classes is not None
        return classes
    return math.prod(y_shape)
