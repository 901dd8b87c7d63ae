"""The feed of the baselines: torch's DataLoader and torchvision's transforms, on every rank.

The dataset is in memory, like torchvision's CIFAR-10; every rank loads, transforms and converts its
own copy of a batch, item by item. The batches are the same as those of hpcsamp.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.data.order import Order


class Items(TorchDataset[tuple[Tensor, Tensor]]):
    """Standardised items of a split, one at a time, images cropped and mirrored at random."""

    def __init__(self, dataset: Dataset, crop: int, flip: bool) -> None:
        self.x, self.y = dataset.read_all("x"), dataset.read_all("y")
        self.mean, self.std = _moments(dataset.stats, self.x[0])
        y_stats = dataset.y_stats
        self.of_y = None if y_stats is None else _moments(y_stats, self.y[0])
        transforms: list[Any] = []
        if crop or flip:
            from hpcsamp.vision import torchvision

            v2 = torchvision().transforms.v2
            transforms += [v2.RandomCrop(dataset.x_shape[-1], padding=crop)] if crop else []
            transforms += [v2.RandomHorizontalFlip()] if flip else []
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.x[index]).float().sub_(self.mean).div_(self.std)
        for transform in self.transforms:
            x = transform(x)
        y = torch.as_tensor(self.y[index])
        if self.of_y is None:
            return x, y.long()
        return x, y.float().sub_(self.of_y[0]).div_(self.of_y[1])


def _moments(stats: Any, like: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel or value, to broadcast over an item."""
    mean, std = (
        torch.as_tensor(np.asarray(v), dtype=torch.float32) for v in (stats.mean, stats.std)
    )
    std = torch.where(std > 0, std, torch.ones_like(std))
    if mean.numel() == 1 or mean.shape == like.shape:
        return mean, std
    shape = (-1, *[1] * (like.ndim - 1))
    return mean.reshape(shape), std.reshape(shape)


def batches(
    config: RunConfig, device: torch.device, part: int = 0, parts: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches forever: part ``part`` of ``parts`` of each batch."""
    with Dataset.open(config.data.path, "train") as dataset:
        items = Items(dataset, config.augment.crop, config.augment.flip)
        order = Order(dataset.count, config.data.batch, config.seed, "global")
    for epoch in itertools.count():
        lists = [
            order.step(epoch, number).part(part, parts).items.tolist()
            for number in range(order.steps)
        ]
        for x, y in DataLoader(items, batch_sampler=lists, num_workers=0):
            yield x.to(device), y.to(device)


def size(path: str) -> int:
    """Items of the training split."""
    with Dataset.open(path, "train") as dataset:
        return dataset.count
