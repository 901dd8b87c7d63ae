"""Particles as functions: their outputs on the batches of a step, and directions pulled back.

A method records the passes of a step whose outputs receive a gradient. At the end of the step it
has the outputs of its samples on all items of the group, ``f`` of shape ``(s, m)``, and for
directions ``v`` of this shape it evaluates the items once more to compute ``J^T v``, where
``J = df / dw`` is the Jacobian of each particle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """Arguments of an evaluation, and its outputs ``(k, m)`` without gradient."""

    x: Tensor
    samples: range
    step: int
    stacked: bool
    index: Tensor | None
    outputs: Tensor

    def chunks(self, split: Callable[[range, bool], Iterator[range]]) -> Iterator[Pass]:
        """Split the pass into chunks of samples that are evaluated at once."""
        for chunk in split(self.samples, self.stacked):
            rows = slice(chunk.start - self.samples.start, chunk.stop - self.samples.start)
            x = self.x[rows] if self.stacked else self.x
            yield Pass(x, chunk, self.step, self.stacked, self.index, self.outputs[rows])


class Functions:
    """Passes of a step, in the order in which they received gradients.

    Parameters
    ----------
    members
        Samples of this rank.
    """

    def __init__(self, members: range) -> None:
        self._members = members
        self._passes: list[Pass] = []
        self._used = False

    def watch(self, outputs: Tensor, x: Tensor, samples: range, step: int, stacked: bool,
              index: Tensor | None) -> None:  # fmt: skip
        """Record a pass as soon as its outputs receive a gradient."""
        values = outputs.detach().flatten(1)
        seen = Pass(x, samples, step, stacked, index, values)
        outputs.register_hook(lambda _: self._add(seen))

    def _add(self, seen: Pass) -> None:
        if self._used:  # the first pass of another step
            self._passes, self._used = [], False
        self._passes.append(seen)

    def values(self) -> Tensor:
        """Outputs ``(s, m)`` of this rank's samples, on all items in the order of the passes.

        They stay available until the first pass of the next step, because a step may be repeated
        with the same gradient.
        """
        self._used = True
        rows: list[list[Tensor]] = [[] for _ in self._members]
        for seen in self._passes:
            for sample, row in zip(seen.samples, seen.outputs, strict=True):
                rows[sample - self._members.start].append(row)
        return torch.stack([torch.cat(row) for row in rows]) if self._passes else torch.empty(0, 0)

    def with_directions(self, directions: Tensor) -> Iterator[tuple[Pass, Tensor]]:
        """Iterate over the passes with their part of directions ``(s, m)``, ``(k, m')``."""
        done = [0] * len(self._members)
        for seen in self._passes:
            width, parts = seen.outputs.shape[1], []
            for sample in seen.samples:
                row = sample - self._members.start
                parts.append(directions[row, done[row] : done[row] + width])
                done[row] += width
            yield seen, torch.stack(parts)
