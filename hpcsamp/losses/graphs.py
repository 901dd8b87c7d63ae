"""Replay the data term of a step and its gradient from a CUDA graph, which is captured once.

A graph contains the work of :mod:`.evaluation` in the memory mode ``stream``: draws, forward and
backward passes, and sums over the samples of a rank. The penalty, the exchange between ranks and
the update are not part of it. Values that differ between steps, which are the batch and the step
number that determines all noise, are copied to tensors at fixed addresses before each replay.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives
from hpcsamp.errors import UsageError
from hpcsamp.methods import Method
from hpcsamp.methods.failing import line_of
from hpcsamp.watchdog import here

if TYPE_CHECKING:
    from hpcsamp.losses.evaluation import LossEvaluation

#: Number of captured combinations of sizes; others are evaluated without a graph.
MOST = 4
#: Passes before a capture, in which libraries choose kernels and allocate what they keep.
WARM = 3

Result = tuple[Tensor, list[Tensor | None]]


class Graphs:
    """The graphs of a loss, one for each combination of sizes."""

    def __init__(self) -> None:
        self._captured: dict[Any, Captured] = {}

    def prepare(self, step: LossEvaluation) -> Captured | None:
        """Return the graph for a step, captured if necessary; None if there are too many sizes.

        It must not be called while an autograd graph of the parameters exists: the nodes of that
        graph would belong to a stream that is not captured.

        Raises
        ------
        UsageError
            If the step cannot be captured; the message names the reason.
        """
        name = _name(step)
        if name not in self._captured and len(self._captured) < MOST:
            check_method(step.method, step.collectives)
            _check_step(step)
            self._captured[name] = Captured(step)
        return self._captured.get(name)


class Body:
    """A step that keeps copies of its batch and its number at fixed addresses.

    Parameters
    ----------
    step
        A training step, whose tensors are copied.
    """

    def __init__(self, step: LossEvaluation) -> None:
        self._number = torch.zeros((), dtype=torch.int64, device=step.x.device)
        self._held = {name: t.clone() for name, t in _tensors(step).items()}
        held = self._held.get
        items = replace(step.items, target=held("target"), weight=held("weight"), mask=held("mask"))
        number = cast(int, self._number)  # see Method.captures
        self._own = replace(step, x=self._held["x"], index=held("index"), items=items, step=number)
        self.load(step)

    def load(self, step: LossEvaluation) -> None:
        """Copy the batch and the number of another step with the same sizes."""
        self._number.fill_(step.step)
        for name, t in _tensors(step).items():
            self._held[name].copy_(t, non_blocking=True)

    def run(self) -> Result:
        """Return value and gradients of the step that was loaded last."""
        return self._own.stream()


class Captured:
    """A step as a CUDA graph.

    Parameters
    ----------
    step
        The step, on a GPU.

    Raises
    ------
    UsageError
        If something in the step cannot be captured.
    """

    def __init__(self, step: LossEvaluation) -> None:
        self._body, device = Body(step), step.x.device
        self._graph = torch.cuda.CUDAGraph()
        now, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        try:
            with here.listening(lambda _: nullcontext()):  # a profile would wait for the GPU
                side.wait_stream(now)
                with torch.cuda.stream(side):
                    for _ in range(WARM):
                        self._body.run()
                now.wait_stream(side)
                # other threads of this process, such as that of the feed, may use the GPU meanwhile
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._found = self._body.run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            raise UsageError(f"training.graphs is not possible: {line_of(e)}") from e

    def replay(self, step: LossEvaluation) -> Result:
        """Return value and gradients of a step; the next replay does not overwrite them."""
        self._body.load(step)
        self._graph.replay()
        value, gradients = self._found
        return value.clone(), [None if g is None else g.clone() for g in gradients]


def check_method(method: Method, collectives: Collectives) -> None:
    """Refuse a method whose steps cannot be captured.

    Raises
    ------
    UsageError
        If its steps cannot be captured; the message names the reason.
    """
    device = next(method.parameters()).device
    if not vars(type(method)).get("captures", False):
        why = f"it works with mean_field and mc_dropout, not with {type(method).__name__}"
    elif method.shared_out or collectives.model_size > 1:
        why = "the ranks exchange parts of the network within a pass"
    elif method.compiled:
        why = "training.compile already captures the passes"
    elif device.type != "cuda":
        why = f"CUDA graphs need a GPU, but this run uses the device type {device.type}"
    else:
        return
    raise UsageError(f"training.graphs is not possible: {why}; set training.graphs = false")


def _check_step(step: LossEvaluation) -> None:
    """Refuse a step whose batch or network cannot be captured."""
    if not all(isinstance(t, Tensor) for t in (step.x, step.items.target)):
        why = "there are several inputs or targets"
    elif step.undo is not None:
        why = "augmentation is undone at the outputs, in a different way in each step"
    elif step.method.state.whole or step.method.state.changing:
        why = "the network keeps state between its passes, or normalises over the batch"
    else:
        return
    raise UsageError(f"training.graphs is not possible: {why}; set training.graphs = false")


def _tensors(step: LossEvaluation) -> dict[str, Tensor]:
    """Return the tensors whose values differ between steps, by name."""
    items = step.items
    named = {
        "x": step.x,
        "index": step.index,
        "target": items.target,
        "weight": items.weight,
        "mask": items.mask,
    }
    return {name: t for name, t in named.items() if t is not None}


def _name(step: LossEvaluation) -> Any:
    """Return everything that is constant in a graph; steps that differ in it need another graph."""
    method = step.method
    tensors = {n: (t.shape, getattr(t, "dtype", None)) for n, t in _tensors(step).items()}
    return (
        *tensors.items(),
        *((p.data_ptr(), p.requires_grad) for p in method.parameters()),
        *(b.data_ptr() for b in method.buffers()),
        *(part.training for network in method.networks for part in network.modules()),
        *(id(method), method.way, method.samples_per_pass, id(step.loss)),
        *(step.own_samples, step.samples, step.stacked, step.exact, step.accumulate),
        *(step.items.count, step.items.items),
    )
