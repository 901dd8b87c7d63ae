"""Estimate the running statistics of batch normalisation for each prediction sample.

A pass over part of the training set computes statistics for each draw of weights (Maddox et al.
2019, section 3.2; :mod:`hpcsamp.weights.estimates`). Batches are whole batches of the training set,
each evaluated by one data group, so the statistics are the same on any grid. Items are used without
augmentation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hpcsamp.collectives import Collectives
from hpcsamp.data import Batch, Dataset
from hpcsamp.data.batch import Converter
from hpcsamp.data.order import GlobalBatch, Order
from hpcsamp.errors import DataError
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.run.assemble import Run
from hpcsamp.tasks.outputs import inputs_for
from hpcsamp.weights import inputs_of
from hpcsamp.weights.estimates import Estimates

LARGEST = 256
"""Largest number of items in a batch, which one rank evaluates at once on any grid."""


def estimate(
    run: Run,
    method: Method,
    topology: Topology,
    collectives: Collectives,
    samples: int,
    x: Any,
    training_set: Callable[[], Dataset],
) -> None:
    """Estimate the statistics if requested and not yet estimated. Collective over the world.

    Parameters
    ----------
    samples
        ``S`` of the predictive distribution.
    x
        Some items, with which to find out whether the network normalises over batches.
    training_set
        Function that opens the training set. If the set is not available, predictions use the
        running statistics of training, and a line on stderr reports this.

    Raises
    ------
    DataError
        If the training set is not available and ``evaluation.batch_norm = "estimated"``.
    """
    asked = run.config.evaluation.batch_norm
    wanted = method.estimates_statistics if asked is None else asked == "estimated"
    estimates = method.state.estimates
    mine = method.prediction_share(samples, collectives.sample_size, collectives.sample_rank)
    if not wanted or method.batch_norm != "batch" or estimates.of == samples:
        return
    names = {network: _in_training(network) for network in method.networks}

    def add(x: Any, index: torch.Tensor, samples: range) -> None:
        with torch.no_grad(), method.predicting(), method.one_at_a_time():
            method(x, samples=samples, step=0, index=index)

    few = inputs_of(x)[:2]
    with together(topology.world), estimates.estimating(names):
        add(few, torch.arange(len(few), device=few.device), mine[:1])
        met = estimates.met
    found = _opened(training_set, topology, asked is not None) if met else None
    with estimates.estimating(names):
        if found is not None:

            def add_whole(x: Any, index: torch.Tensor) -> None:
                add(inputs_for(method, x), index, mine)

            _pass(run, found, topology, estimates, add_whole)
        estimates.finish(samples, lambda x: _sum(x, topology, collectives))


def _sum(x: torch.Tensor, topology: Topology, collectives: Collectives) -> None:
    if topology.data_size > 1:
        collectives.sum_(x, "data")


def _in_training(network: nn.Module) -> frozenset[str]:
    """Names of the buffers of modules that are in training mode during training.

    A module that stays in evaluation mode was trained with the statistics that it holds.
    """
    parts = {n: m for n, m in network.named_modules() if m.training or not network.training}
    return frozenset(
        f"{name}.{key}" if name else key for name, part in parts.items() for key in part._buffers
    )


def _opened(
    training_set: Callable[[], Dataset], topology: Topology, needed: bool
) -> Dataset | None:
    """Open the training set; None if a rank cannot open it and this is not an error."""
    found, reason = None, None
    try:
        found = training_set()
    except (DataError, OSError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
    reasons = [r for r in topology.world.allgather(reason) if r is not None]
    if not reasons:
        return found
    if needed:
        raise DataError(f'evaluation.batch_norm = "estimated" needs the training set: {reasons[0]}')
    if topology.is_root:
        print(
            f"batch normalisation uses the running statistics of training: an estimate for "
            f"each prediction sample needs the training set: {reasons[0]}",
            file=sys.stderr,
            flush=True,
        )
    return None


def _pass(
    run: Run,
    dataset: Dataset,
    topology: Topology,
    estimates: Estimates,
    add: Callable[[Any, torch.Tensor], None],
) -> None:
    """Evaluate batches, one per data group in each round."""
    c = run.config
    size = min(c.data.batch, LARGEST, dataset.count)
    count = max(1, min(dataset.count, c.evaluation.batch_norm_items) // size)
    order = Order(dataset.count, size, seed=c.seed)
    convert = Converter(dataset, topology.device, run.dtype, normalize=True)
    with dataset:
        for first in range(0, count, topology.data_size):
            number = first + topology.data_rank
            estimates.weight = float(number < count)  # some groups have no batch in the last round
            batch = _read(dataset, order.step(0, number % count), topology, convert)
            index = torch.from_numpy(batch.index).to(batch.device)
            with together(topology.world):
                add(batch.x, index)


def _read(dataset: Dataset, step: GlobalBatch, topology: Topology, convert: Converter) -> Batch:
    """Read a batch, once in each sample group."""
    raw: dict[str, Any] = {}
    with together(topology.world):
        if topology.sample_rank == 0:
            for values, only in zip(dataset.read(step.items), ("x", "y"), strict=True):
                raw |= values if isinstance(values, dict) else {only: values}
    raw = topology.sample_comm.bcast(raw)
    return convert(step, len(step.items), raw)
