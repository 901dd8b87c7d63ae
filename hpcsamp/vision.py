"""Import torchvision with any build of torch.

torchvision from the package index is built for CUDA. With a CPU build of torch its compiled
operators do not load, and the import fails with ``operator torchvision::nms does not exist``,
because Python code refers to their schemas. Declaring the schemas is enough for transforms,
datasets and models. (``envs/local.sh`` installs a torchvision that declares them; this module does
so for other environments.)
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_module(name: str) -> ModuleType:
    """Import a module that may import torchvision, e.g. ``timm``.

    Parameters
    ----------
    name
        Name of the module.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError as e:
        if "torchvision::nms does not exist" not in str(e):
            raise
    _declared()
    return importlib.import_module(name)


@cache
def torchvision() -> ModuleType:
    """Import torchvision with ``transforms.v2``.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import_module("torchvision.transforms.v2")
    except ModuleNotFoundError as e:
        raise ImportError("torchvision is not installed, but augment.transforms needs it") from e
    return import_module("torchvision")


@cache
def _declared() -> torch.library.Library:
    """Declare the operators' schemas; they exist as long as the returned library."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}{_SCHEMA}")
    return library
