"""Let ``torch.compile`` compile the passes of a method in training."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.methods.base import Method
from hpcsamp.weights import inputs_of
from hpcsamp.weights.strategies.compiled import Compiled


def compile_passes(
    method: Method,
    x: Tensor,
    samples: range,
    *,
    stacked: bool = False,
    index: Tensor | None = None,
) -> None:
    """Compile the passes of a method in training, and compare the first one with a plain pass.

    Other sizes are compiled when they are met. Predictions are not compiled.

    Parameters
    ----------
    method
        The method, which keeps its number of samples per pass.
    x, samples, stacked, index
        A batch, as in :meth:`Method.forward`, for all samples of this rank.

    Raises
    ------
    UsageError
        If there is no C++ compiler, or the module cannot be compiled as a function of its values
        and inputs; the message names the reason.
    """
    x = inputs_of(x, stacked)
    method.observe(x, samples, 0, stacked=stacked, index=index)  # by plain passes
    for put, _ in method._holders():
        put.compiled = Compiled(put.module)
    method.compiled = True
    own = samples[: method.passes.chunk]
    with torch.enable_grad(), method.trying():
        method(x[: len(own)] if stacked else x, own, 0, stacked=stacked, index=index)
