"""Evaluate prediction samples; each rank of a sample group evaluates its share."""

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
    """Evaluate this rank's share of ``samples`` prediction samples: outputs ``(s, B, ...)``.

    Parameters
    ----------
    x
        ``(B, ...)`` inputs. For a model-parallel network, only the part that this rank needs: a
        batch read in parts (see :func:`parts_of_inputs`), or :func:`inputs_for` of whole inputs.
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
    """Evaluate this rank's share of the samples on several batches: outputs ``(s, B, ...)``.

    The weights of a chunk of samples are drawn once for all batches.

    Parameters
    ----------
    batches
        Inputs and item positions of each batch, as in :func:`local_outputs`.
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
    """Select from whole inputs what this rank's part of the network needs."""
    return x if method.spread is None else method.spread.of_inputs(x)


def parts_of_inputs(method: Method) -> dict[str, Part] | None:
    """Return the part of the inputs that a loader reads for this rank; None for whole inputs."""
    return None if method.spread is None else {"x": method.spread.inputs}


def _whole(method: Method, outputs: Tensor, group: Collectives) -> Tensor:
    """Return outputs of whole items, gathered over model ranks if the network is split."""
    if method.spread is None:
        return outputs
    return group.gather_over_model(outputs, method.spread.outputs)


def split(outputs: Tensor, packed: Method | Caller, targets: Sequence[str]) -> dict[str, Tensor]:
    """Split the outputs of several targets: ``(s, B, ...)`` of each, by its name.

    Parameters
    ----------
    outputs
        ``(s, B, n)`` outputs of the last evaluation.
    packed
        The method or network caller that evaluated them, which defines the layout of the tensor.
    """
    layout = packed.outputs
    if layout is None and len(targets) == 1:
        return {targets[0]: outputs}
    assert layout is not None
    return layout.split(outputs, targets)


def sample_counts(method: Method, samples: int, group: Collectives) -> list[int]:
    """Return the number of prediction samples on each rank of the sample group. Collective."""
    mine = method.prediction_share(samples, group.sample_size, group.sample_rank)
    counts = torch.zeros(group.sample_size, dtype=torch.float64)
    counts[group.sample_rank] = len(mine)
    if group.sample_size > 1:
        group.sum_(counts, "sample")
    return [int(n) for n in counts.tolist()]
