"""A set with several inputs and targets in three splits, and networks with one or two heads."""

from __future__ import annotations

import numpy as np
import torch
from several_sets import CLASSES, Plants, plants
from torch import nn

from hpcsamp.ingest import build
from hpcsamp.ingest.named import from_named

COUNT = 70


def make(folder, seed: int = 0, **options) -> None:
    """Images and ages; kinds and two sizes, some of which are not known."""
    items = plants(seed, COUNT)
    inputs = {name: items[name] for name in ("image", "age")}
    targets = {name: items[name] for name in ("kind", "size")}
    source = from_named(
        {"train": (inputs, targets)},
        name="plants",
        missing={"kind": -1, "size": "nan"},
        class_names={"kind": ["a", "b", "c"]},
        names={"size": ["height", "width"]},
        units={"size": "cm"},
        weights={"train": items["weight"]},
        fractions={"valid": 0.2, "test": 0.2},
        **options,
    )
    build(source, folder)


class TwoHeads(nn.Module):
    """A dictionary with an output of each name, in another order than the targets."""

    def __init__(self, in_shape) -> None:
        super().__init__()
        assert dict(in_shape) == {"image": (2, 4, 5), "age": (3,)}
        self.plants = Plants(double=False)

    def forward(self, image, age):
        return self.plants(age, image)


class OneHead(TwoHeads):
    """The same network with its numbers in one tensor, kinds first, as in the set."""

    def forward(self, image, age):
        both = self.plants(age, image)
        return torch.cat([both["kind"], both["size"]], 1)


class WrongHead(TwoHeads):
    """One class too many."""

    def forward(self, image, age):
        both = self.plants(age, image)
        return {"kind": torch.cat([both["kind"], both["size"][:, :1]], 1), "size": both["size"]}


def rows(path) -> tuple[np.ndarray, np.ndarray]:
    """Targets of the test split."""
    from hpcsamp.data import Dataset

    with Dataset.open(path, "test") as dataset:
        y = dataset.read(range(dataset.count))[1]
    return y["kind"], y["size"]


assert CLASSES == 3
