"""Observation models of labels: classes, pixels, several labels at once, ranks.

With ``label_noise = e`` a label is that of the model with probability ``1 - e``, and with
probability e any label at random: probabilities are mixed with the uniform distribution. It is part
of the observation model, so it is exact in all losses and in what is predicted of labels. (With one
sample and the expected NLL this is close to label smoothing, whose cost is linear in the labels
instead.)
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
"""Classes below which torch's softmax over the last axis of a CPU tensor goes value by value."""


def log_softmax(logits: Tensor) -> Tensor:
    """Log softmax over the last axis of ``(s, B, ..., C)``.

    Few classes are put before the axis of the items, as torch then takes many items at once, which
    is ten times as fast.
    """
    if logits.shape[-1] >= FEW or logits.dim() < 3 or logits.device.type != "cpu":
        return F.log_softmax(logits, dim=-1)
    log_p = F.log_softmax(logits.transpose(-1, -2).contiguous(), dim=-2)
    return log_p.transpose(-1, -2).contiguous()  # reductions over samples want the usual order


class _Noisy(Likelihood):
    """Labels of which a part is random.

    Parameters
    ----------
    label_noise
        Fraction of the labels that are drawn at random from all classes; 0 to below 1.
    """

    of_labels = True

    def __init__(self, label_noise: float = 0.0) -> None:
        if not 0 <= label_noise < 1:
            raise UsageError(f"label_noise must be from 0 to below 1, got {label_noise}")
        self.label_noise = float(label_noise)

    def _mixed(self, log_p: Tensor, classes: int) -> Tensor:
        """Log probabilities of labels from those of the model."""
        if not self.label_noise:
            return log_p
        floor = log_p.new_tensor(math.log(self.label_noise / classes))
        return torch.logaddexp(log_p + math.log1p(-self.label_noise), floor)


class Categorical(_Noisy):
    """Class logits ``(s, B, ..., C)``, integer targets ``(B, ...)``: log softmax of the target."""

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B, ...)`` log probabilities.

        Raises
        ------
        UsageError
            If the axes before the last are not those of the target.
        """
        outputs = self._last(outputs, target)
        index = target.expand(outputs.shape[:-1])[..., None]
        log_p = F.log_softmax(outputs, dim=-1).gather(-1, index)[..., 0]
        return self._mixed(log_p, outputs.shape[-1])

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """See :class:`Likelihood`.

        Raises
        ------
        UsageError
            If there are logits of another number of classes.
        """
        outputs = self._last(wide(outputs), target)
        if outputs.shape[-1] != classes:
            raise UsageError(
                f"the network has logits of {outputs.shape[-1]} classes, the targets have {classes}"
            )
        return self._mixed(log_softmax(outputs), classes)

    def _last(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Logits with the classes on the last axis."""
        if outputs.shape[1:-1] != target.shape:
            raise UsageError(
                f"class logits of shape {tuple(outputs.shape[1:])} need targets of shape "
                f"{tuple(outputs.shape[1:-1])}, got {tuple(target.shape)}"
            )
        return outputs


class Pixelwise(Categorical):
    """A label for each pixel or step: logits ``(s, B, C, ...)``, integer targets ``(B, ...)``.

    Each pixel is an event: mixtures over samples are those of single pixels.

    Parameters
    ----------
    channels
        Where the classes are among the axes of an item's logits: ``"first"``, as in convolutional
        networks, or ``"last"``, as in transformers. Logits ``(s, B, n)`` on one axis are taken to
        be in this order as well.
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
            said = ", ".join(map(str, ("C", *shape) if first else (*shape, "C")))
            raise UsageError(
                f"targets of shape {shape} need logits of shape ({said}) per item, the network has "
                f'{own} (likelihood.channels is "{self.channels}")'
            )
        logits = outputs.reshape(*outputs.shape[:2], *wanted)
        return logits.movedim(2, -1) if first else logits


class Bernoulli(_Noisy):
    """Several labels at once, each 0 or 1: the outputs are their logits, ``(s, B, ...)``.

    Each label is an event: mixtures over samples are those of single labels.
    """

    joint = False

    def size(self, shape: tuple[int, ...], classes: int | None) -> int:
        """See :class:`Likelihood`: one for each label."""
        return math.prod(shape)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B, ...)`` log probabilities."""
        logits = like_target(outputs, target)
        return self._mixed(F.logsigmoid(torch.where(target > 0, logits, -logits)), 2)

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """See :class:`Likelihood`: of 0 and of 1."""
        logits = like_target(wide(outputs), target)
        return self._mixed(torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1), 2)


class CumulativeLogits(_Noisy):
    """Ordered classes ``0 .. C - 1`` by ``C - 1`` outputs ``o``, of cumulative probabilities::

        P(t <= k) = sigmoid(e_k),    e_0 = o_0,    e_k = e_{k-1} + softplus(o_k)

    The steps make the cumulative logits rise, whatever a network says (McCullagh 1980, section 2,
    with thresholds that depend on the item).
    """

    def size(self, shape: tuple[int, ...], classes: int | None) -> int:
        """See :class:`Likelihood`: one for each step between classes."""
        return math.prod(shape) * ((classes or 2) - 1)

    def of_values(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``(s, B)`` log probabilities."""
        log_p = self.log_probabilities(outputs, target, outputs.shape[-1] + 1)
        return log_p.gather(-1, target.expand(log_p.shape[:-1])[..., None])[..., 0]

    def log_probabilities(self, outputs: Tensor, target: Tensor, classes: int) -> Tensor:
        """See :class:`Likelihood`.

        Without a difference of probabilities: with ``b - a = softplus(o)``,
        ``sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) sigmoid(o)``.

        Raises
        ------
        UsageError
            If there are outputs of another number of classes.
        """
        outputs = wide(outputs)
        if outputs.shape[1:] != (*target.shape, classes - 1):
            raise UsageError(
                f"{classes} ordered classes need {classes - 1} outputs for targets of shape "
                f"{tuple(target.shape)}, the network has {tuple(outputs.shape[1:])}"
            )
        first, steps = outputs[..., :1], outputs[..., 1:]
        logits = torch.cat([first, first + F.softplus(steps).cumsum(-1)], -1)
        up, down, none = F.logsigmoid(logits), F.logsigmoid(-logits), torch.zeros_like(first)
        rise = torch.cat([none, F.logsigmoid(steps), none], -1)
        log_p = torch.cat([up, none], -1) + torch.cat([none, down], -1) + rise
        return self._mixed(log_p, classes)
