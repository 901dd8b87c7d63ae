"""Batch normalisation of each sample over the whole batch of a step.

It is recognised by the calls that a module makes (:func:`torch.nn.functional.batch_norm`,
``torch.batch_norm``, and instance normalisation with running statistics), whatever the class of its
layers. Forward and backward pass exchange sums over the data group, so that a batch in several
parts is one batch. Trial passes use the statistics of their own items and exchange nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.weights.data_group import DataGroupLike
from hpcsamp.weights.normalised import (
    ChannelMoments,
    by_moments,
    by_own_batch,
    by_whole_batch,
    in_one,
    moments,
    moments_over,
)
from hpcsamp.weights.routing.forms import SingleSample
from hpcsamp.weights.routing.now import Now, Route
from hpcsamp.weights.routing.samples import of_samples, scaled_channels


def batch_norm(
    now: Now,
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Batch normalisation by the statistics of the batch."""
    carry = now.carry
    if not training and (names := _estimated_names(now, running_mean, running_var)):
        y = of_samples(now, partial(_estimated, now, names, eps), input)
        return scaled_channels(now, y, weight, bias)
    if not training or carry is None:
        return NotImplemented
    over = now.normalises(input.shape)
    if over is None:  # the pass is a probe
        y = by_moments(input[None], moments(input[None]), eps)[0]
        return scaled_channels(now, y, weight, bias)
    if not over or carry.prediction:  # coupling of items in prediction is checked by observation
        return NotImplemented
    kept = running_mean is not None and running_var is not None
    if carry.state.norm == "frozen" and kept:
        return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    if carry.state.norm != "batch":
        without = "" if kept else ", and has no running statistics (track_running_stats = True)"
        raise UsageError(
            f"{_whose(now, weight, running_mean)} normalises over the batch with "
            f'model.batch_norm = "{carry.state.norm}"{without}'
        )
    names = [_name(now, value) for value in (running_mean, running_var)] if kept else []
    statistics = partial(_statistics, now, names, momentum, weight)
    if not isinstance(now.form, SingleSample):
        y = of_samples(now, partial(_normalised, now, statistics, eps), input)
        return scaled_channels(now, y, weight, bias)
    x = input[None]
    done = in_one(x, weight, bias, eps) if _for_itself(now) else None
    if done is not None:
        statistics(x, done[1])
        return done[0][0]
    by = statistics(x)
    if by.own:  # in one operation
        return F.batch_norm(input, None, None, weight, bias, training=True, eps=eps)
    return scaled_channels(now, by(x, eps)[0], weight, bias)


def _torch_batch_norm(
    now: Now, input: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool,
    momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return batch_norm(now, input, mean, variance, weight, bias, training, momentum, eps)


def instance_norm(
    now: Now,
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Instance normalisation with running statistics, the mean over items of their statistics."""
    carry = now.carry
    if not use_input_stats and (names := _estimated_names(now, running_mean, running_var)):
        of_samples(now, partial(_noted_of_items, now, names, momentum), input.detach())
        return F.instance_norm(input, None, None, weight, bias, True, eps=eps)
    if running_mean is None or not use_input_stats or carry is None:
        return NotImplemented
    if carry.state.norm == "frozen":
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, eps=eps)
    if not carry.prediction:
        names = [_name(now, value) for value in (running_mean, running_var)]
        of_samples(now, partial(_noted_of_items, now, names, momentum), input.detach())
    return F.instance_norm(input, None, None, weight, bias, True, eps=eps)


def _torch_instance_norm(
    now: Now, input: Any, weight: Any, bias: Any, mean: Any, variance: Any, use_input_stats: bool,
    momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    others = (use_input_stats, momentum, eps)
    return instance_norm(now, input, mean, variance, weight, bias, *others)


# Normalisation of k samples -----------------------------------------------------------------------


class _By(NamedTuple):
    """The statistics by which a call normalises: those of its own items, or others."""

    found: ChannelMoments
    own: bool
    group: DataGroupLike | None = None

    def __call__(self, x: Tensor, eps: float) -> Tensor:
        """Normalise a tensor ``(k, B, C, ...)``."""
        if self.own:
            return by_own_batch(x, eps)
        if self.group is not None:
            return by_whole_batch(x, self.found, eps, self.group)
        return by_moments(x, self.found, eps)


def _for_itself(now: Now) -> bool:
    """Whether the next call normalises by the items of this pass only."""
    assert now.carry is not None
    state = now.carry.state
    several = state.group is not None and state.group.size > 1 and not now.carry.trial
    return not several and (state.replayed is None or not state.replayed.again)


def _normalised(now: Now, statistics: Callable[..., _By], eps: float, x: Tensor) -> Tensor:
    """Normalise a tensor ``(k, B, C, ...)``, and record its statistics."""
    done = in_one(x, None, None, eps) if _for_itself(now) else None
    if done is None:
        return statistics(x)(x, eps)
    statistics(x, done[1])
    return done[0]


def _statistics(
    now: Now,
    names: list[str],
    momentum: float,
    weight: Any,
    x: Tensor,
    own: ChannelMoments | None = None,
) -> _By:
    """Statistics of a tensor ``(k, B, C, ...)``, which also advance the running statistics.

    ``own``: the moments of the tensor, if they are known.
    """
    carry = now.carry
    assert carry is not None
    state = carry.state
    call, now.normalised = now.normalised, now.normalised + 1
    state.calls = max(state.calls, now.normalised)
    replay = state.replayed
    if replay is not None and (noted := replay.at(call)) is not None:
        return _By(ChannelMoments(noted[0], noted[1], 0.0), False)
    found, group = own or moments(x), None if carry.trial else state.group
    if group is not None and group.size > 1:
        found = moments_over(group, found)
    else:
        group = None
    if found.number <= 1 and not carry.trial:
        raise UsageError(
            f"{_whose(now, weight)} normalises over a batch with {found.number:.0f} value for each "
            f"of its {x.shape[2]} channels, but needs at least 2: set a larger data.batch, or "
            f'model.batch_norm = "group" or "frozen"'
        )
    if replay is not None:
        replay.note(found.mean, found.variance)
    if names:
        unbiased = found.variance * (found.number / max(found.number - 1, 1))
        _advance(now, names, (found.mean, unbiased), momentum)
    return _By(found, group is None and found.number > 1, group)


def _noted_of_items(now: Now, names: list[str], momentum: float, x: Tensor) -> Tensor:
    """Record the mean over items of each item's statistics; each item is normalised by its own."""
    variance, mean = torch.var_mean(x.double(), list(range(3, x.dim())))
    if now.carry is not None and now.carry.prediction:
        _add(now, names, (mean.mean(1), variance.mean(1)))
        return x
    _advance(now, names, (mean.mean(1), variance.mean(1)), momentum)
    return x


def _advance(now: Now, names: list[str], found: tuple[Tensor, Tensor], momentum: float) -> None:
    assert now.carry is not None
    for name, value in zip(names, found, strict=True):
        before = now.carry.now(name)
        mixed = torch.lerp(before.double(), value.double(), momentum)
        now.carry.leave(name, mixed.to(before.dtype))


def _estimated(now: Now, names: list[str], eps: float, x: Tensor) -> Tensor:
    """Normalise a tensor ``(k, B, C, ...)`` by its batch; add its statistics to the estimates."""
    found = moments(x)
    unbiased = found.variance * (found.number / max(found.number - 1, 1))
    _add(now, names, (found.mean, unbiased))
    return by_moments(x, found, eps)


def _estimated_names(now: Now, *values: Any) -> list[str]:
    """Names of the given running statistics if they are being estimated; otherwise empty."""
    if now.carry is None or not now.carry.prediction or now.put is None:
        return []
    estimates, module = now.carry.state.estimates, now.put.module
    if not estimates.running or any(value is None for value in values):
        return []
    names = [now.put.name_of(value) for value in values]
    return [name for name in names if name is not None and estimates.wants(module, name)]


def _add(now: Now, names: list[str], found: tuple[Tensor, Tensor]) -> None:
    carry = now.carry
    assert carry is not None
    if carry.trial:
        return
    for name, value in zip(names, found, strict=True):
        carry.state.estimates.add(carry.samples, name, value, carry.now(name).dtype)


# Names -------------------------------------------------------------------------------------------


def _name(now: Now, value: Any) -> str:
    assert now.put is not None
    name = now.put.name_of(value)
    if name is None:
        raise UsageError(
            f"{type(now.put.module).__name__} normalises by running statistics that are not among "
            f"its buffers, so that they would not be updated; add them with register_buffer"
        )
    return name


def _whose(now: Now, *values: Any) -> str:
    """Name of the calling layer, if its parameters or buffers reveal it."""
    assert now.put is not None
    for value in values:
        name = None if value is None else now.put.name_of(value)
        if name is not None:
            owner = name.rpartition(".")[0]
            part = now.put.module.get_submodule(owner)
            return f"{owner}, a {type(part).__name__}," if owner else type(part).__name__
    return f"a batch normalisation of {type(now.put.module).__name__}"


ROUTES: dict[Any, Route] = {
    F.batch_norm: batch_norm,
    torch.batch_norm: _torch_batch_norm,
    F.instance_norm: instance_norm,
    torch.instance_norm: _torch_instance_norm,
}
