"""What the graph of some outputs leads to, and what is called while it is gone through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.recording import hooked
from hpcsamp.weights.recomputation import stands


def check_own(network: nn.Module, output: Tensor, own: Sequence[nn.Parameter]) -> None:
    """Refuse a module whose graph leads to parameters that were to be replaced.

    Raises
    ------
    UsageError
        Naming the parameter.
    """
    names = {id(p): n for n, p in network.named_parameters() if any(p is o for o in own)}
    for leaf in leaves(output):
        found = names.get(id(leaf))
        if found is not None:
            raise UsageError(
                f"{type(network).__name__} uses its parameter {found} by something else than that "
                f"name (a list, a view or a product made when it was built), where other weights "
                f"cannot be put in its place; use self.{found} in the forward pass"
            )


def check_backward(network: nn.Module, output: Tensor) -> None:
    """Refuse a module that computes parts of itself again in the backward pass by means of its own.

    The weights of the sample are out of the module by then. What torch's own checkpointing computes
    again has them (:mod:`hpcsamp.weights.recomputation`).

    Raises
    ------
    UsageError
        Naming the submodule.
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
    """The leaves of a graph."""
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
