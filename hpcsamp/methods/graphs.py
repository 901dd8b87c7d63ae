"""Inspect the autograd graph of outputs: the leaves it leads to, and calls in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.recording import hooked
from hpcsamp.weights.recomputation import stands


def check_own(network: nn.Module, output: Tensor, own: Sequence[nn.Parameter]) -> None:
    """Refuse a module whose graph leads to parameters that should have been replaced.

    Raises
    ------
    UsageError
        If there is such a parameter; the message names it.
    """
    names = {id(p): n for n, p in network.named_parameters() if any(p is o for o in own)}
    for leaf in leaves(output):
        found = names.get(id(leaf))
        if found is not None:
            raise UsageError(
                f"{type(network).__name__} uses its parameter {found} under another name (from a "
                f"list, a view or a product made when it was built), where the weights of a sample "
                f"cannot take its place; use self.{found} in the forward pass"
            )


def check_backward(network: nn.Module, output: Tensor) -> None:
    """Refuse a module that recomputes parts of itself in the backward pass by its own means.

    The module no longer holds the weights of the sample then. Only torch's own checkpointing
    recomputes with these weights (:mod:`hpcsamp.weights.recomputation`).

    Raises
    ------
    UsageError
        If the module recomputes parts of itself; the message names the submodule.
    """
    found: list[str] = []

    def begin(name: str, _: Any) -> None:
        if not stands():
            found.append(name)

    wanted = [leaf for leaf in leaves(output) if leaf.requires_grad]
    if not wanted:
        return
    total = output.real.sum() if output.is_complex() else output.sum()
    with hooked(network, begin, lambda *_: None):
        torch.autograd.grad(total, wanted, allow_unused=True)
    if found:
        part = dict(network.named_modules())[found[0]]
        name = f"{found[0]}, a {type(part).__name__}," if found[0] else type(part).__name__
        raise UsageError(
            f"{name} is evaluated again in the backward pass, where the weights and the draws of "
            f"the sample are no longer in it; use torch.utils.checkpoint with use_reentrant=False"
        )


def leaves(output: Tensor) -> Iterator[Tensor]:
    """Iterate over the leaves of a graph."""
    nodes: list[Any] = [output.grad_fn]
    met: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in met:
            continue
        met.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        nodes += [function for function, _ in node.next_functions]
