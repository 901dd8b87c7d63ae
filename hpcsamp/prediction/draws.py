"""Individual samples of a posterior: their weights by name, and networks with these weights.

The weights of a sample are read from the network while the method evaluates this sample. So they
can be read for any method, and are exactly those used for predictions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods import Method
from hpcsamp.methods.factors import without_factors
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.weights.calling import Caller
from hpcsamp.weights.extra import extra_of, put_extra
from hpcsamp.weights.inputs import Inputs, inputs_of
from hpcsamp.weights.routing import OtherCallsError
from hpcsamp.weights.routing.fixed import Fixed

CLOSE = 1e-3
"""Largest relative difference between the outputs of a network and of the sample it represents."""


def weights_of(method: Method, x: Any, sample: int) -> dict[str, Tensor]:
    """Return the network's parameters and buffers during the evaluation of a prediction sample.

    Parameters
    ----------
    x
        Some items.
    sample
        Index of the sample, among those for which :meth:`Method.prediction_share` was last called.

    Returns
    -------
    dict
        Copies of the tensors by name.
    """
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), method.predicting(), method.one_at_a_time():
        network = method.network_of(sample)
        if network is None:
            raise UsageError(f"{type(method).__name__} has no network with weights to return")
        one = range(sample, sample + 1)
        method(x, samples=one, step=0)  # the first call also inspects the module, in extra passes

        def look(module: nn.Module, *_: Any) -> None:
            seen.clear()
            for named in (module.named_parameters(), module.named_buffers()):
                seen.update((name, value.detach().clone()) for name, value in named)

        hook = network.register_forward_pre_hook(look)
        try:
            method(x, samples=one, step=0)
        finally:
            hook.remove()
    return without_factors(seen)


def network_of(method: Method, make: Callable[[], nn.Module], x: Any, sample: int) -> nn.Module:
    """Return a separate network with the weights of a prediction sample, in evaluation mode.

    Parameters
    ----------
    make
        Creates the network of the run with arbitrary weights.
    x
        Some items, for which its outputs are compared with those of the method.

    Returns
    -------
    nn.Module
        The network; or :class:`~hpcsamp.weights.routing.fixed.Fixed` if a sample also includes
        random draws that are the same for all items, such as the masks of Monte Carlo dropout; or
        :class:`Evaluated` if it draws separately for each item.
    """
    network = make()
    with method.predicting():
        source = method.network_of(sample)
    put_extra(network, extra_of(source) if source is not None else {})
    values = weights_of(method, x, sample)
    with torch.no_grad():
        for named in (network.named_parameters(), network.named_buffers()):
            for name, value in named:
                if name in values and value.shape == values[name].shape:
                    value.copy_(values[name])
    network.eval()
    with torch.no_grad(), _in_full_precision(method):
        with method.predicting():
            expected = method(x, samples=range(sample, sample + 1), step=0)[0]
        if _close(Caller(network), x, expected):
            return network
        reason = ""
        try:
            place, within = method.drawing(network, x, sample)
            fixed = Fixed(network, place, x, within).eval()
            if _close(Caller(fixed), x, expected):
                return fixed
        except (UsageError, OtherCallsError) as e:
            reason = str(e)
    return Evaluated(method, sample, reason).eval()


def _close(call: Callable[[Any], Tensor], x: Any, expected: Tensor) -> bool:
    try:
        got = call(x)
    except UsageError:
        return False
    if got.shape != expected.shape:
        return False
    scale = expected.abs().amax().clamp_min(1e-6) if expected.numel() else 1.0
    return bool(((got - expected).abs() <= CLOSE * scale).all())


@contextmanager
def _in_full_precision(method: Any) -> Iterator[None]:
    """Switch a method's autocast off within the block: a separate network has no autocast."""
    before = getattr(method, "autocast", None)
    if before is None:
        yield
        return
    method.autocast = None
    try:
        yield
    finally:
        method.autocast = before


class Evaluated(nn.Module):
    """A prediction sample that its method evaluates, because no separate network can represent it.

    Parameters
    ----------
    method
        Method; a copy is kept.
    sample
        Index of the prediction sample.
    reason
        Why no network can represent it, if known.
    """

    def __init__(self, method: Method, sample: int, reason: str = "") -> None:
        super().__init__()
        self.reason = reason
        self.method = copy.deepcopy(method)
        self.sample = sample

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the outputs of the sample."""
        x = inputs_of(named) if named else inputs[0]
        with self.method.predicting():
            y: Tensor = self.method(x, samples=range(self.sample, self.sample + 1), step=0)[0]
            return y


def together_in_one(values: list[Tensor]) -> Tensor:
    """Stack tensors to ``(k, ...)``; if all are equal, expand one of them without copying."""
    if all(torch.equal(values[0], value) for value in values[1:]):
        return values[0].expand(len(values), *values[0].shape)
    return torch.stack(values)


def some_items(x: Any, seed: int) -> Any:
    """Replace floating-point inputs by standard normal numbers; return all others unchanged."""
    if isinstance(x, Inputs):
        return x.map(lambda t: some_items(t, seed))
    if not x.is_floating_point():
        return x
    source = torch_generator("cpu", seed, Purpose.SYNTHETIC)
    return torch.randn(x.shape, generator=source, dtype=x.dtype).to(x.device)
