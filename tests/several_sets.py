"""Sets with several inputs and targets, and networks that take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpcsamp.ingest import build
from hpcsamp.ingest.named import from_named

N, CLASSES = 50, 3


def plants(seed: int = 0, count: int = N) -> dict:
    """Images and ages; kinds (some not known) and two sizes (some not known)."""
    g = np.random.default_rng(seed)
    image = g.integers(0, 255, (count, 2, 4, 5)).astype("u1")
    age = g.normal(30, 9, (count, 3)).astype("<f4")
    kind = g.integers(0, CLASSES, count)
    size = g.normal(2, 3, (count, 2))
    kind[::7], size[::5, 0], size[3::11] = -1, np.nan, np.nan
    return {
        "image": image,
        "age": age,
        "kind": kind,
        "size": size,
        "weight": g.integers(1, 4, count).astype(float),
    }


def make_plants(folder, chunk_bytes: int = 0, weighted: bool = True, **options) -> dict:
    """Write them; the items."""
    items = plants()
    arrays = ({n: items[n] for n in ("image", "age")}, {n: items[n] for n in ("kind", "size")})
    if weighted:
        options["weights"] = {"train": items["weight"]}
    source = from_named(
        {"train": arrays},
        name="plants",
        missing={"kind": -1, "size": "nan"},
        normalize=["size"],
        class_names={"kind": ["a", "b", "c"]},
        names={"age": ["mean", "low", "high"]},
        units={"size": "cm"},
        fractions={},
        **options,
    )
    if chunk_bytes:
        for name, spec in source.arrays.items():
            source.arrays[name] = type(spec).plan(
                spec.shape, spec.dtype, names=spec.names, units=spec.units, chunk_bytes=chunk_bytes
            )
    build(source, folder, shard_bytes=1500)
    return items


class Plants(nn.Module):
    """Two inputs, two outputs of different types."""

    def __init__(self, in_shape=None, outputs=None, double: bool = True) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 3, 3)
        self.of_age = nn.Linear(3, 4)
        self.kind = nn.Linear(18 + 4, CLASSES)
        self.size = nn.Linear(18 + 4, 2)
        if double:
            self.double()

    def forward(self, age, image):  # in another order than the arrays
        z = torch.cat([torch.tanh(self.body(image)).flatten(1), torch.tanh(self.of_age(age))], 1)
        return {"size": self.size(z), "kind": self.kind(z)}


def sentences(longest: int = 7, seed: int = 1, count: int = 24) -> tuple[list, np.ndarray]:
    """Tokens of unequal length, and labels; the length of the longest does not change the rest."""
    g = np.random.default_rng(seed)
    ids = [g.integers(0, 11, g.integers(1, 8)) for _ in range(count)]
    ids[0] = np.resize(ids[0], 7)
    labels = np.asarray([int(i.sum()) % CLASSES for i in ids])
    return ids, labels


class Reader(nn.Module):
    """Tokens and their mask to classes."""

    def __init__(self, in_shape=None, outputs=CLASSES) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, outputs)

    def forward(self, ids, src_key_padding_mask):
        z = self.mix(self.embed(ids), src_key_padding_mask=src_key_padding_mask)
        there = (~src_key_padding_mask).to(z.dtype)[..., None]
        return self.head((z * there).sum(1) / there.sum(1))


class OneOfPlants(nn.Module):
    """Two inputs, one of the outputs: kinds, or sizes."""

    def __init__(self, in_shape, outputs: int) -> None:
        super().__init__()
        assert dict(in_shape) == {"image": (2, 4, 5), "age": (3,)}
        self.plants = Plants(double=False)
        self.output = "kind" if outputs == CLASSES else "size"

    def forward(self, image, age):
        return self.plants(age, image)[self.output]


def make_one(folder, target: str, rename: dict | None = None, **options) -> None:
    """Write a set with one of the targets, and weights; arrays may be renamed."""
    items, rename = plants(count=90), rename or {}
    inputs = {rename.get(n, n): items[n] for n in ("image", "age")}
    source = from_named(
        {"train": (inputs, items[target])},
        name=target,
        missing={"y": -1 if target == "kind" else "nan"},
        normalize=[] if target == "kind" else ["y"],
        weights={"train": items["weight"]},
        **options,
    )
    build(source, folder)
