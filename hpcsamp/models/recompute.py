"""Activation checkpointing for weights that are supplied from outside the module.

``torch.utils.checkpoint`` calls a block again in the backward pass. By then the module has its own
parameters again, so a block would be recomputed with other weights than those of the samples. Here
the weights of the forward pass are saved with the call.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.utils.checkpoint import checkpoint

from hpcsamp.errors import UsageError
from hpcsamp.weights.folding import Sampled
from hpcsamp.weights.put import Put


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """Evaluate ``block(x)`` without keeping its activations, which the backward pass recomputes.

    Parameters
    ----------
    block
        A module that draws no random numbers and changes no buffers.
    x
        Its input.

    Returns
    -------
    Tensor
        The same values, and the same gradients with respect to ``x`` and to the parameters that
        the block has at the time of the call.

    Raises
    ------
    UsageError
        Within ``torch.func.vmap``, which torch's checkpointing does not support.
    """
    held = dict(block.named_parameters(remove_duplicate=False))
    if any(isinstance(t, Tensor) and is_batchedtensor(t) for t in (x, *held.values())):
        raise UsageError(
            "model.checkpoint = true computes one sample at a time: set method.samples_per_pass = 1"
        )

    put, folds = Put(block), [getattr(value, "fold", None) for value in held.values()]
    tensors = [getattr(value, "value", value) for value in held.values()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        again = (
            value if fold is None else Sampled(value, fold)
            for value, fold in zip(values, folds, strict=True)
        )
        with put(dict(zip(held, again, strict=True))):
            result: Tensor = block(x)
        return result

    result: Tensor = checkpoint(call, x, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result
