"""Passes compiled by ``torch.compile``: one for all samples of a chunk, or one for each sample.

The compiled function takes the values of a sample as arguments, so that it is the same in every
step. Each new combination of sizes is compiled once.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hpcsamp.errors import UsageError
from hpcsamp.weights.strategies.chunk import Chunk, NotPossibleError

#: Combinations of sizes, modes and networks that are compiled before torch refuses another one.
MOST = 256


class Compiled:
    """A module as compiled functions of its values and inputs.

    Parameters
    ----------
    module
        Any module. It is copied without its parameters and buffers, which both share, so that hooks
        of the original, which come and go, do not compile it again.

    Raises
    ------
    UsageError
        If this machine has no C++ compiler, which torch needs on CPUs.
    """

    def __init__(self, module: nn.Module) -> None:
        held = itertools.chain(module.parameters(), module.buffers())
        self._parts = list(module.modules())
        self._copy = copy.deepcopy(module, {id(t): t for t in held})
        self._copies = list(self._copy.modules())
        _prepare(next(module.parameters()).device)
        settings: dict[str, Any] = {"fullgraph": True, "dynamic": False}
        self.one = torch.compile(self._one, **settings)
        self.at_once = torch.compile(self._at_once, **settings)

    def _one(self, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """``(B, ...)`` outputs of one sample."""
        y: Tensor = functional_call(self._copy, dict(values), (x,))
        return y

    def _at_once(
        self,
        sampled: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        x: Tensor,
        axis: int | None,
    ) -> Tensor:
        """``(k, B, ...)`` outputs of all samples; ``axis``: that of samples in ``x``."""

        def one(sampled: Mapping[str, Tensor], x: Tensor) -> Tensor:
            return self._one({**shared, **sampled}, x)

        y: Tensor = torch.func.vmap(one, (0, axis), randomness="error")(sampled, x)
        return y

    def follow(self) -> None:
        """Set the mode (training or evaluation) of the copy to that of the module."""
        for part, own in zip(self._parts, self._copies, strict=True):
            if own.training != part.training:
                own.training = part.training


def _prepare(device: torch.device) -> None:
    """Find the compiler, and let torch compile in this process rather than in several others."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch._dynamo
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST)
    if device.type != "cpu":
        return  # torch's own error names what is missing
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UsageError(
            "training.compile needs a C++ compiler, but there is none: install g++ or clang++, or "
            "set CXX to the path of one"
        ) from None


def at_once(chunk: Chunk) -> Tensor:
    """Return ``(k, B, ...)`` outputs by one vectorised pass."""
    if chunk.samples == 1:
        return in_turn(chunk)
    made = _made(chunk)
    axis = 0 if chunk.stacked else None
    return _checked(made.at_once(dict(chunk.sampled), dict(chunk.shared), chunk.x, axis))


def in_turn(chunk: Chunk) -> Tensor:
    """Return ``(k, B, ...)`` outputs by ``k`` passes."""
    made, names = _made(chunk), list(chunk.sampled)
    rows = zip(*(value.unbind() for value in chunk.sampled.values()), strict=True)
    views = chunk.x.unbind() if chunk.stacked else (chunk.x,) * chunk.samples
    outputs = [
        _checked(made.one({**chunk.shared, **dict(zip(names, row, strict=True))}, x))
        for row, x in zip(rows, views, strict=True)
    ]
    return outputs[0][None] if chunk.samples == 1 else torch.stack(outputs)


def _made(chunk: Chunk) -> Compiled:
    """Return the compiled module of a chunk.

    Raises
    ------
    NotPossibleError
        If a pass does more than to map values and inputs to one tensor.
    """
    put, plan = chunk.put, chunk.plan
    if put.parted:
        raise NotPossibleError("the network is split over several ranks")
    if chunk.place is not None and (chunk.place.masks or (plan is not None and plan.needed)):
        raise NotPossibleError("the network draws random numbers, or normalises over the batch")
    if put.state is not None and put.state.changing:
        raise NotPossibleError("the network keeps state between its passes")
    if not isinstance(chunk.x, Tensor):
        raise NotPossibleError("the network takes several inputs")
    assert put.compiled is not None, "the module was not prepared"
    put.compiled.follow()
    return put.compiled


def _checked(y: Any) -> Tensor:
    if not isinstance(y, Tensor):
        raise NotPossibleError("the network returns several outputs")
    return y
