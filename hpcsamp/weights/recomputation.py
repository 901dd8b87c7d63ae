"""Recompute parts of a module in the backward pass with the weights and draws of their pass.

``torch.utils.checkpoint`` calls a part of a module again in the backward pass. By then the values
of the samples are no longer in the module and calls are no longer routed, so the part would
silently be computed with other weights and masks. The contexts of a pass are recorded here and
entered again around its recomputation, through torch's own interface (the second context of
``context_fn``).
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
"""Function that returns a copy of an active context."""


class _Standing(threading.local):
    def __init__(self) -> None:
        #: For each active context, a function that records its state and returns a :data:`Block`.
        self.blocks: list[Callable[[], Block]] = []


_standing = _Standing()


def begin(again: Callable[[], Block]) -> None:
    """Register a context; ``again()`` records its current state and returns a :data:`Block`."""
    _standing.blocks.append(again)


def end() -> None:
    """Unregister the context that was registered last."""
    _standing.blocks.pop()


def stands() -> bool:
    """Whether a pass is in progress, or a recomputation within the contexts of its pass."""
    return bool(_standing.blocks)


@contextmanager
def standing(block: Block) -> Iterator[None]:
    """Enter a context, and register it for recomputations of calls within it."""
    begin(lambda: block)
    try:
        with block():
            yield
    finally:
        end()


class _Around(AbstractContextManager[None]):
    """Nested contexts that can be entered repeatedly."""

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
                "use_reentrant=True, which only has the module's own weights; set "
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
