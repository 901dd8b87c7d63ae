"""Observation models of labels: classes, labels per pixel, several labels, ordered classes.

With ``label_noise = e``, a label follows the model with probability ``1 - e`` and is drawn at
random from all labels with probability ``e``: the model's probabilities are mixed with the uniform
distribution. This is part of the observation model, so it is exact in all losses and in the
predictive distribution of labels. (With one sample and the expected NLL it is close to label
smoothing, whose cost is linear in the labels instead.)
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.losses.likelihoods import Likelihood
from hpcsamp.losses.values import like_target, wide

FEW = 16
"""With fewer classes, torch's softmax over the last axis of a CPU tensor is not vectorised."""


def log_softmax(logits: Tensor) -> Tensor:
    """Return the log softmax over the last axis of ``(s, B, ..., C)``.

    A small axis of classes is moved before the axis of items, so that torch processes many items at
    once, which is ten times as fast.
    """
    if logits.shape[-1] >= FEW or logits.dim() < 3 or logits.device.type != "cpu":
        return F.log_softmax(logits, dim=-1)
    log_p = F.log_softmax(logits.transpose(-1, -2).contiguous(), dim=-2)
    return log_p.transpose(-1, -2).contiguous()  # reductions over samples need the usual order


class _Noisy(Likelihood):
    """Base class of observation models for labels of which a fraction is random.

    Parameters
    ----------
    label_noise
        Fraction of the labels that are drawn at random from all classes; at least 0, below 1.
    """

    of_labels = True

    def __init__(self, label_noise: float = 0.0) -> None:
        if not 0 <= label_noise < 1:
            raise UsageError(f"label_noise must be at least 0 and below 1, got {label_noise}")
        self.label_noise = float(label_noise)

    def _mixed(self, log_p: Tensor, classes: int) -> Tensor:
        """Return the log probabilities of labels with label noise, from those of the model."""
        if not self.label_noise:
            return log_p
        floor = log_p.new_tensor(math.log(self.label_noise / classes))
        return torch.logaddexp(log_p + math.log1p(-self.label_noise), floor)


class Categorical(_Noisy):
    """Categorical distribution: class logits ``(s, B, ..., C)``, integer targets ``(B, ...)``."""

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log probabilities.

        Raises
        ------
        UsageError
            If the axes before the last differ from those of the target.
        """
        outputs = self._last(outputs, target)
        index = target.expand(outputs.shape[:-1])[..., None]
        log_p = F.log_softmax(outputs, dim=-1).gather(-1, index)[..., 0]
        return self._mixed(log_p, outputs.shape[-1])

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """Log probabilities of all classes, see :class:`Likelihood`.

        Raises
        ------
        UsageError
            If the number of logits differs from the number of classes.
        """
        outputs = self._last(wide(outputs), target)
        if outputs.shape[-1] != classes:
            raise UsageError(
                f"the network has logits of {outputs.shape[-1]} classes, but the targets have "
                f"{classes}"
            )
        return self._mixed(log_softmax(outputs), classes)

    def _last(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return logits with the classes on the last axis."""
        if outputs.shape[1:-1] != target.shape:
            raise UsageError(
                f"class logits of shape {tuple(outputs.shape[1:])} need targets of shape "
                f"{tuple(outputs.shape[1:-1])}, got {tuple(target.shape)}"
            )
        return outputs


class Pixelwise(Categorical):
    """A label for each pixel or time step: logits ``(s, B, C, ...)``, targets ``(B, ...)``.

    Targets are integers. Each pixel is an event: mixtures over samples are taken pixel by pixel.

    Parameters
    ----------
    channels
        Position of the classes among the axes of an item's logits: ``"first"``, as in convolutional
        networks, or ``"last"``, as in transformers. Flat logits ``(s, B, n)`` are assumed to be in
        this order as well.
    """

    joint = False

    def __init__(
        self, channels: Literal["first", "last"] = "first", label_noise: float = 0.0
    ) -> None:
        super().__init__(label_noise)
        if channels not in ("first", "last"):
            raise UsageError(f'channels must be "first" or "last", got {channels!r}')
        self.channels = channels

    def _last(self, outputs: Tensor, target: Tensor) -> Tensor:
        own, shape = tuple(outputs.shape[2:]), tuple(target.shape[1:])
        classes, rest = divmod(math.prod(own), max(1, math.prod(shape)))
        first = self.channels == "first"
        wanted = (classes, *shape) if first else (*shape, classes)
        if rest or classes < 2 or own not in (wanted, (math.prod(own),)):
            needed = ", ".join(map(str, ("C", *shape) if first else (*shape, "C")))
            raise UsageError(
                f"targets of shape {shape} need logits of shape ({needed}) per item, but the "
                f'network has {own} (likelihood.channels is "{self.channels}")'
            )
        logits = outputs.reshape(*outputs.shape[:2], *wanted)
        return logits.movedim(2, -1) if first else logits


class Bernoulli(_Noisy):
    """Several binary labels, each 0 or 1: the outputs are their logits, ``(s, B, ...)``.

    Each label is an event: mixtures over samples are taken label by label.
    """

    joint = False

    def size(self, shape: tuple[int, ...], classes: int | None) -> int:
        """Number of network outputs per item: one for each label."""
        return math.prod(shape)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B, ...)`` log probabilities."""
        logits = like_target(outputs, target)
        return self._mixed(F.logsigmoid(torch.where(target > 0, logits, -logits)), 2)

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """Log probabilities of 0 and of 1, see :class:`Likelihood`."""
        logits = like_target(wide(outputs), target)
        return self._mixed(torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1), 2)


class CumulativeLogits(_Noisy):
    """Ordered classes ``0 .. C - 1`` from ``C - 1`` outputs ``o``, by cumulative probabilities::

        P(t <= k) = sigmoid(e_k),    e_0 = o_0,    e_k = e_{k-1} + softplus(o_k)

    The softplus makes the cumulative logits increase for any outputs (McCullagh 1980, section 2,
    with thresholds that depend on the item).
    """

    def size(self, shape: tuple[int, ...], classes: int | None) -> int:
        """Number of network outputs per item: one for each threshold between classes."""
        return math.prod(shape) * ((classes or 2) - 1)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return ``(s, B)`` log probabilities."""
        log_p = self.log_probabilities(outputs, target, outputs.shape[-1] + 1)
        return log_p.gather(-1, target.expand(log_p.shape[:-1])[..., None])[..., 0]

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """Log probabilities of all classes, see :class:`Likelihood`.

        Computed without a difference of probabilities: with ``b - a = softplus(o)``,
        ``sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) sigmoid(o)``.

        Raises
        ------
        UsageError
            If the number of outputs does not fit the number of classes.
        """
        outputs = wide(outputs)
        if outputs.shape[1:] != (*target.shape, classes - 1):
            raise UsageError(
                f"{classes} ordered classes need {classes - 1} outputs for targets of shape "
                f"{tuple(target.shape)}, but the network has {tuple(outputs.shape[1:])}"
            )
        first, steps = outputs[..., :1], outputs[..., 1:]
        logits = torch.cat([first, first + F.softplus(steps).cumsum(-1)], -1)
        up, down, none = F.logsigmoid(logits), F.logsigmoid(-logits), torch.zeros_like(first)
        rise = torch.cat([none, F.logsigmoid(steps), none], -1)
        log_p = torch.cat([up, none], -1) + torch.cat([none, down], -1) + rise
        return self._mixed(log_p, classes)
