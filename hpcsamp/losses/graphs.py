"""Replay the data term of a step and its gradient from a CUDA graph, which is captured once.

A graph contains the work of :mod:`.evaluation` in the memory mode ``stream``: draws, forward and
backward passes, and sums over the samples of a rank. The penalty, the exchange between ranks and
the update are not part of it. Values that differ between steps, which are the batch and the step
number that determines all noise, are copied to tensors at fixed addresses before each replay.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hpcsamp.collectives import Collectives, early_of, in_one
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
    """The graphs of a loss, one for each combination of sizes.

    Parameters
    ----------
    auto
        Whether steps that cannot be captured are evaluated without a graph; rank 0 writes one line
        that says so and why. Otherwise they are refused.
    why
        Reason against it that holds for any method, or empty.

    Raises
    ------
    UsageError
        If there is a reason, unless ``auto``.

    Attributes
    ----------
    off
        Whether steps are evaluated without a graph, because one cannot be captured.
    """

    def __init__(self, auto: bool = False, why: str = "") -> None:
        self._captured: dict[Any, Captured] = {}
        self._auto, self._why = auto, why
        self.off = self._told = False
        if why and not auto:
            raise _refusal(why)

    def settle(self, method: Method, collectives: Collectives) -> None:
        """Decide whether the steps of a method are captured, as far as that is known before them.

        Raises
        ------
        UsageError
            If they cannot be captured but must be; the message names the reason.
        """
        why = self._why or why_not(method, collectives)
        if why:
            self._refuse(why, collectives)
        elif self._auto and not self._told:
            self._tell("the draws and passes of a step are replayed from a CUDA graph", collectives)

    def _refuse(self, why: str, collectives: Collectives) -> None:
        if not self._auto:
            raise _refusal(why)
        if not self.off:
            self._tell(f"no CUDA graphs are used, because {why}", collectives)
        self.off = True

    def _tell(self, line: str, collectives: Collectives) -> None:
        self._told = True
        if collectives.rank == 0:
            sys.stderr.write(f"hpcsamp: training.graphs = auto: {line}\n")

    def prepare(self, step: LossEvaluation) -> Captured | None:
        """Return the graph for a step, captured if necessary; None if it is evaluated without one.

        There may be too many sizes, or ``auto`` has found a reason.

        It must not be called while an autograd graph of the parameters exists: the nodes of that
        graph would belong to a stream that is not captured.

        Raises
        ------
        UsageError
            If the step cannot be captured but must be; the message names the reason.
        """
        if self.off:
            return None
        name = _name(step)
        if name not in self._captured and len(self._captured) < MOST:
            self.settle(step.method, step.collectives)
            if why := _why_not(step):
                self._refuse(why, step.collectives)
            if self.off:
                return None
            try:
                self._captured[name] = Captured(step)
            except NotCapturedError as e:
                self._refuse(str(e), step.collectives)
        return self._captured.get(name)


class NotCapturedError(RuntimeError):
    """CUDA cannot capture a step; the message is that of CUDA in one line."""


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
    NotCapturedError
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
            raise NotCapturedError(line_of(e)) from e

    def replay(self, step: LossEvaluation) -> Result:
        """Return value and gradients of a step; the next replay does not overwrite them."""
        self._body.load(step)
        self._graph.replay()
        value, gradients = self._found
        whole = in_one(gradients)
        if whole is None:
            return value.clone(), [None if g is None else g.clone() for g in gradients]
        sizes = [g.numel() for g in gradients if g is not None]
        return value.clone(), list(whole.clone().split(sizes))


def _refusal(why: str) -> UsageError:
    return UsageError(f"training.graphs is not possible: {why}; set training.graphs = false")


def why_not(method: Method, collectives: Collectives) -> str:
    """Return why the steps of a method cannot be captured; empty if nothing is known against it."""
    device = next(method.parameters()).device
    if not vars(type(method)).get("captures", False):
        return f"it works with mean_field and mc_dropout, not with {type(method).__name__}"
    if method.shared_out or collectives.model_size > 1:
        return "the ranks exchange parts of the network within a pass"
    if method.compiled:
        return "training.compile already captures the passes"
    if device.type != "cuda":
        return f"CUDA graphs need a GPU, but this run uses the device type {device.type}"
    if early_of(method) is not None:
        return "parallel.buckets exchanges the gradient within a pass"
    return ""


def _why_not(step: LossEvaluation) -> str:
    """Return why a step with this batch or network cannot be captured; empty if it may be."""
    if not all(isinstance(t, Tensor) for t in (step.x, step.items.target)):
        return "there are several inputs or targets"
    if step.undo is not None:
        return "augmentation is undone at the outputs, in a different way in each step"
    if step.method.state.whole or step.method.state.changing:
        return "the network keeps state between its passes, or normalises over the batch"
    return ""


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
        *(step.own_samples, step.samples, step.stacked, step.exact, step.accumulate, step.leads),
        *(step.items.count, step.items.items),
    )
