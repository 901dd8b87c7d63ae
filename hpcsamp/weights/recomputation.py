"""Recomputation in the backward pass, with the weights and the draws of the pass it belongs to.

``torch.utils.checkpoint`` calls a part of a module again in the backward pass. By then the values
of the samples are out of the module and calls are no longer routed, so that the part would be
computed with other weights and other masks, without a word. What stands around a pass is written
down here, and put around its recomputation again, by the means that torch has for it (the second
context of ``context_fn``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch.utils.checkpoint as torchs

from hpcsamp.errors import UsageError

Block = Callable[[], AbstractContextManager[Any]]
"""Makes a block that is like one that stands."""


class _Standing(threading.local):
    def __init__(self) -> None:
        #: Of each block that stands, what makes one as it is at the time of the call.
        self.blocks: list[Callable[[], Block]] = []


_standing = _Standing()


def begin(again: Callable[[], Block]) -> None:
    """Say that a block begins; ``again()`` returns what makes one that is as this one is then."""
    _standing.blocks.append(again)


def end() -> None:
    """Say that the block that began last ends."""
    _standing.blocks.pop()


def stands() -> bool:
    """Whether a pass is under way, or a recomputation with what stood around its pass."""
    return bool(_standing.blocks)


@contextmanager
def standing(block: Block) -> Iterator[None]:
    """A block, which is there in recomputations of what is called within it."""
    begin(lambda: block)
    try:
        with block():
            yield
    finally:
        end()


class _Around(AbstractContextManager[None]):
    """Blocks around each other, as often as they are needed."""

    def __init__(self, blocks: list[Block], inner: AbstractContextManager[Any]) -> None:
        self._blocks, self._inner = blocks, inner
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        stack = ExitStack()
        try:
            for block in self._blocks:
                stack.enter_context(block())
            stack.enter_context(self._inner)
        except BaseException:
            stack.close()
            raise
        self._entered.append(stack)

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.pop().__exit__(*error)


def _with_what_stands(original: Any) -> Any:
    @wraps(original)
    def generator(
        fn: Any, preserve_rng_state: bool = True, context_fn: Any = torchs.noop_context_fn,
        *others: Any, **named: Any,
    ) -> Any:  # fmt: skip
        if stands():
            blocks = [again() for again in _standing.blocks]
            contexts = context_fn

            def context_fn() -> tuple[Any, Any]:
                forward, recompute = contexts()
                return forward, _Around(blocks, recompute)

        return original(fn, preserve_rng_state, context_fn, *others, **named)

    return generator


def _refused_while_stands(original: Any) -> Any:
    @wraps(original)
    def forward(ctx: Any, *arguments: Any) -> Any:
        if stands() and any(ctx.needs_input_grad):
            raise UsageError(
                "a part of the module is recomputed by torch.utils.checkpoint with "
                "use_reentrant=True, which knows only the module's own weights; use "
                "use_reentrant=False"
            )
        return original(ctx, *arguments)

    return forward


torchs._checkpoint_without_reentrant_generator = _with_what_stands(
    torchs._checkpoint_without_reentrant_generator
)
setattr(  # noqa: B010
    torchs.CheckpointFunction,
    "forward",
    staticmethod(_refused_while_stands(torchs.CheckpointFunction.forward)),
)
