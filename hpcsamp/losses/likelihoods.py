"""Observation models: log p(target | output) of one output, item by item."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError


class Likelihood(ABC):
    """``log p(target | output)``; extra axes of an item are independent and summed over."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B)`` log densities in nats, of outputs ``(s, B, ...)`` and targets ``(B, ...)``."""


class Categorical(Likelihood):
    """Class logits ``(s, B, C)``, integer targets ``(B,)``: log softmax of the target's class."""

    def log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B)`` log probabilities."""
        log_p = F.log_softmax(_wide(outputs), dim=-1)
        index = target.expand(outputs.shape[:-1])[..., None]
        return log_p.gather(-1, index)[..., 0]


class Gaussian(Likelihood):
    """Normal with known standard deviation: ``N(target; output, std)``, shapes ``(s, B, ...)``.

    Parameters
    ----------
    std
        Standard deviation of the observation noise, in the units of the target; > 0.
    """

    def __init__(self, std: float = 1.0) -> None:
        if not std > 0:
            raise UsageError(f"the noise std of a Gaussian likelihood must be > 0, got {std}")
        self.std = std

    def log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B)`` log densities, summed over the axes of an item.

        Raises
        ------
        UsageError
            If an item has another number of outputs than of target values.
        """
        if outputs[0].numel() != target.numel():
            raise UsageError(
                f"the model has outputs of shape {tuple(outputs.shape[2:])} per item, the targets "
                f"have shape {tuple(target.shape[1:])}"
            )
        outputs = _wide(outputs).reshape(outputs.shape[0], *target.shape)
        square = ((outputs - target) / self.std) ** 2
        constant = math.log(2 * math.pi) + 2 * math.log(self.std)
        return -0.5 * (square + constant).reshape(*outputs.shape[:2], -1).sum(-1)


def _wide(x: Tensor) -> Tensor:
    """At least float32: statistics of half-precision outputs lose too much."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
