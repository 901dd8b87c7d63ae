"""The outputs of prediction samples, and how many each rank of a sample group evaluates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.grid.parts import Part
from hpcsamp.methods import Method
from hpcsamp.weights import Caller


def local_outputs(
    method: Method, x: Tensor, samples: int, group: Collectives, index: Tensor | None = None
) -> Tensor:
    """``(s, B, ...)`` outputs of this rank's share of ``samples`` prediction samples.

    Parameters
    ----------
    x
        ``(B, ...)``, of a network in parts what this rank's part takes: a batch that was read in
        parts (:func:`parts_of_inputs`), or :func:`inputs_for` whole ones.
    index
        ``(B,)`` positions of the items in their split, see :meth:`Method.forward`.

    Returns
    -------
    Tensor
        Outputs of whole items.
    """
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    with torch.no_grad(), method.predicting():
        y = method(x, samples=mine, step=0, index=index)
    return _whole(method, y, group)


def outputs_of(
    method: Method, batches: Sequence[tuple[Tensor, Tensor]], samples: int, group: Collectives
) -> Tensor:
    """``(s, B, ...)`` outputs of this rank's share of the samples for the items of some batches.

    The weights of a chunk of samples are drawn once for all batches.

    Parameters
    ----------
    batches
        Inputs and positions of the items of each, as in :func:`local_outputs`.
    """
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    count, found = sum(len(index) for _, index in batches), None
    with torch.no_grad(), method.predicting(), method.keeping_draws():
        done = 0
        for chunk in method.chunks(mine):
            first = 0
            for x, index in batches:
                y = method(x, samples=chunk, step=0, index=index)
                if found is None:
                    found = y.new_empty(len(mine), count, *y.shape[2:])
                found[done : done + len(chunk), first : first + len(index)] = y
                first += len(index)
            done += len(chunk)
    assert found is not None, "no samples, or no batches"
    return _whole(method, found, group)


def inputs_for(method: Method, x: Tensor) -> Tensor:
    """What this rank's part of a network takes of whole inputs."""
    return x if method.spread is None else method.spread.of_inputs(x)


def parts_of_inputs(method: Method) -> dict[str, Part] | None:
    """What a loader is to read of the inputs of items for this rank; None for all of them."""
    return None if method.spread is None else {"x": method.spread.inputs}


def _whole(method: Method, outputs: Tensor, group: Collectives) -> Tensor:
    """Outputs of whole items, where a network in parts gives parts of them."""
    if method.spread is None:
        return outputs
    return group.gather_over_model(outputs, method.spread.outputs)


def split(outputs: Tensor, packed: Method | Caller, targets: Sequence[str]) -> dict[str, Tensor]:
    """``(s, B, ...)`` outputs of each of several targets by its name.

    Parameters
    ----------
    outputs
        ``(s, B, n)``, of the last evaluation.
    packed
        What evaluated them, which knows how they lie in one tensor.
    """
    layout = packed.outputs
    if layout is None and len(targets) == 1:
        return {targets[0]: outputs}
    assert layout is not None
    return layout.split(outputs, targets)


def sample_counts(method: Method, samples: int, group: Collectives) -> list[int]:
    """How many prediction samples each rank of the sample group evaluates. Collective."""
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    counts = torch.zeros(group.sample_size, dtype=torch.float64)
    counts[group.sample_rank] = len(mine)
    if group.sample_size > 1:
        group.sum_(counts, "sample")
    return [int(n) for n in counts.tolist()]
