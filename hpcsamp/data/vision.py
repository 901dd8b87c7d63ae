"""torchvision, importable beside any torch.

torchvision from the package index is built for CUDA. Beside a CPU torch its compiled operations do
not load, and its import then ends in ``operator torchvision::nms does not exist``, because Python
code refers to their schemas. Declaring the schemas is enough for transforms, datasets and models.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def torchvision() -> ModuleType:
    """The package, with ``transforms.v2`` loaded.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    library = None
    if not _loads():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}{_SCHEMA}")
    import torchvision
    import torchvision.transforms.v2

    torchvision._hpcsamp_schemas = library  # schemas live as long as the library object
    return torchvision


def _loads() -> bool:
    """Whether the compiled operations can be loaded into this torch."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torchvision is not installed; data augmentation by transforms needs it")
    for compiled in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            return False
        return True
    return False
