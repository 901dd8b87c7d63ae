"""The configuration's plain network, its optimiser, and its loss on one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp import models
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.run.assemble import likelihood
from hpcsamp.run.kind import kind_of
from hpcsamp.run.shapes import DataShapes


def _nothing() -> None:
    pass


@dataclass
class Training:
    """A baseline that is ready to train.

    Attributes
    ----------
    network
        Network that is trained.
    step
        Function that runs one training step including its feed.
    close
        Function that ends threads and processes of the baseline. Collective.
    facts
        Further fields of the baseline's record.
    """

    network: nn.Module
    step: Callable[[], None]
    close: Callable[[], None] = _nothing
    facts: dict[str, Any] = field(default_factory=dict)


def network(config: RunConfig, device: torch.device) -> nn.Module:
    """Create hpcsamp's network, with dropout if the method is Monte Carlo dropout."""
    with Dataset.open(config.data.path, "train") as dataset:
        shapes = DataShapes.of(dataset)
    outputs = likelihood(config).size(shapes.targets.shape, shapes.targets.classes)
    arguments = dict(config.model.arguments)
    if config.method.name == "mc_dropout":
        arguments["dropout"] = float(config.method.arguments.get("rate", 0.1))
    made: nn.Module = models.build(config.model.name, arguments, shapes.x, outputs, config.seed)
    return made.to(device)


def optimizer(config: RunConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Create the optimiser of the configuration, fused as in hpcsamp."""
    kind = getattr(torch.optim, config.optimizer.name)
    made: torch.optim.Optimizer = kind(parameters, **config.optimizer.arguments, fused=True)
    return made


def criterion(config: RunConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss of the outputs of one pass, or of their mean over samples."""
    if kind_of(config) == "classification":
        return nn.functional.cross_entropy
    if config.loss.name in ("mean_mse", "expected_nll"):
        return _squared_error
    raise UsageError(f"loss.name = {config.loss.name!r}: no baseline implements this loss")


def _squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs.reshape(target.shape), target)


def repeated(net: nn.Module, x: Tensor, samples: int) -> Tensor:
    """``(samples, B, ...)`` outputs of a network with dropout: all samples in one batch."""
    out: Tensor = net(x.repeat(samples, *[1] * (x.dim() - 1)))
    return out.view(samples, len(x), *out.shape[1:])
