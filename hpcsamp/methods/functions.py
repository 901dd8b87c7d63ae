"""Particles as functions: their outputs on the batches of a step, and directions pulled back.

A method records the passes of a step whose outputs receive a gradient. At the end of the step it
has the outputs of its samples on all items of the group, ``f`` of shape ``(s, m)``, and for
directions ``v`` of this shape it evaluates the items once more to compute ``J^T v``, where
``J = df / dw`` is the Jacobian of each particle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """Arguments of an evaluation, its outputs ``(k, m)``, and the gradient of the loss there."""

    x: Tensor
    samples: range
    step: int
    stacked: bool
    index: Tensor | None
    outputs: Tensor
    gradient: Tensor

    def chunks(self, split: Callable[[range, bool], Iterator[range]]) -> Iterator[Pass]:
        """Split the pass into chunks of samples that are evaluated at once."""
        for chunk in split(self.samples, self.stacked):
            rows = slice(chunk.start - self.samples.start, chunk.stop - self.samples.start)
            x = self.x[rows] if self.stacked else self.x
            yield replace(
                self, x=x, samples=chunk, outputs=self.outputs[rows], gradient=self.gradient[rows]
            )


class Functions:
    """Passes of a step, in the order in which they received gradients."""

    def __init__(self) -> None:
        self._passes: list[Pass] = []
        self._used = False

    def watch(self, outputs: Tensor, x: Tensor, samples: range, step: int, stacked: bool,
              index: Tensor | None) -> None:  # fmt: skip
        """Record a pass as soon as its outputs receive a gradient."""
        values = outputs.detach().flatten(1)
        outputs.register_hook(
            lambda g: self._add(Pass(x, samples, step, stacked, index, values, g.flatten(1)))
        )

    def _add(self, seen: Pass) -> None:
        if self._used:  # the first pass of another step
            self._passes, self._used = [], False
        self._passes.append(seen)

    def passes(self) -> list[Pass]:
        """Return the passes of a step.

        They stay available until the first pass of the next step, because a step may be repeated
        with the same gradient.
        """
        self._used = True
        return list(self._passes)


def joined(
    passes: Sequence[Pass], members: range, of: Callable[[Pass], Tensor] = lambda seen: seen.outputs
) -> Tensor:
    """Return outputs ``(s, m)`` of members on all items in the order of the passes."""
    rows: list[list[Tensor]] = [[] for _ in members]
    for seen in passes:
        for sample, row in zip(seen.samples, of(seen), strict=True):
            rows[sample - members.start].append(row)
    return torch.stack([torch.cat(row) for row in rows])


def divided(
    directions: Tensor, passes: Sequence[Pass], members: range
) -> Iterator[tuple[Pass, Tensor]]:
    """Iterate over the passes with their part ``(k, m')`` of directions ``(s, m)``."""
    done = [0] * len(members)
    for seen in passes:
        width, parts = seen.outputs.shape[1], []
        for sample in seen.samples:
            row = sample - members.start
            parts.append(directions[row, done[row] : done[row] + width])
            done[row] += width
        yield seen, torch.stack(parts)
