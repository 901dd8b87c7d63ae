"""Networks that are passed from Python; a configuration can only name one.

``hs.fit(module, ...)`` and ``hs.load(folder, module=...)`` offer their network within a context.
There, the returned table ``[model]`` refers to the network as ``name = "mlp"`` refers to one of the
package: everything that builds networks (a run, its memory estimate, the members of an ensemble)
receives copies of it. The table records the layout of the network, so that another one is refused
when the run is resumed.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hpcsamp.arguments import accepted
from hpcsamp.errors import UsageError

NAME = "given"
"""Value of ``model.name`` for a network that was passed from Python."""

Network = nn.Module | Callable[..., nn.Module]

_offered: dict[tuple[str, str], Network] = {}


@contextmanager
def offered(network: Network) -> Iterator[dict[str, str]]:
    """Offer a network within the context.

    Parameters
    ----------
    network
        A module, which is copied with its current parameters for each use, or a function (such as
        a class) that makes one. A function is called for each use, with initial parameters drawn
        from the seed of the run; ``in_shape`` and ``outputs`` are passed if it has arguments of
        these names.

    Yields
    ------
    dict
        The table ``[model]`` that refers to it in a configuration.

    Raises
    ------
    UsageError
        If ``network`` is neither a module nor a function.
    """
    if not isinstance(network, nn.Module) and not callable(network):
        raise UsageError(
            f"a network must be a torch.nn.Module or a function that makes one, not a "
            f"{type(network).__name__}"
        )
    of = _name(network)
    layout = layout_of(network) if isinstance(network, nn.Module) else ""
    before = _offered.get((of, layout))
    _offered[of, layout] = network
    try:
        yield {"name": NAME, "of": of, **({"layout": layout} if layout else {})}
    finally:
        del _offered[of, layout]
        if before is not None:
            _offered[of, layout] = before


def given(in_shape: tuple[int, ...], outputs: int, of: str = "", layout: str = "") -> nn.Module:
    """Return a copy of the network that is being offered, see :func:`offered`.

    Parameters
    ----------
    in_shape, outputs
        Shape of an input item, and outputs per item, passed to a function that takes them.
    of
        Name of its class or function.
    layout
        Digest of its layers and tensors, see :func:`layout_of`; empty for a function.

    Raises
    ------
    UsageError
        If no such network is offered, or it cannot be copied.
    """
    network = _offered.get((of, layout))
    if network is None:
        others = ", ".join(f"{name} {digest}".strip() for name, digest in _offered)
        raise UsageError(
            f'model.name = "{NAME}": the network of this run, {f"{of} {layout}".strip()}, was '
            f"passed from Python and cannot be named: pass it again, by hs.fit(module, ..., "
            f"resume=True) or hs.load(folder, module=module)"
            + (f"; this one is {others}" if others else "")
        )
    if not isinstance(network, nn.Module):
        return _made(network, in_shape, outputs)
    memo = _without_numbers(network) if torch.get_default_device().type == "meta" else {}
    try:
        return copy.deepcopy(network, memo)
    except Exception as e:  # copying a module can raise anything
        raise UsageError(
            f"{of} cannot be copied ({type(e).__name__}: {e}); pass a function that makes it"
        ) from e


def layout_of(module: nn.Module) -> str:
    """Return a digest (twelve hexadecimal digits) of a network's layout.

    It covers the names and types of all layers, and the names and shapes of all parameters and
    buffers.
    """
    lines = [f"{name} {type(part).__qualname__}" for name, part in module.named_modules()]
    for kind in (module.named_parameters(), module.named_buffers()):
        lines += [f"{name} {_shape(tensor)}" for name, tensor in kind]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _made(make: Callable[..., nn.Module], in_shape: tuple[int, ...], outputs: int) -> nn.Module:
    try:
        takes = accepted(make)
    except (TypeError, ValueError):  # a function without a signature
        takes = {}
    sizes = {"in_shape": in_shape, "outputs": outputs}
    found = make(**{name: value for name, value in sizes.items() if name in takes})
    if not isinstance(found, nn.Module):
        raise UsageError(
            f"{_name(make)} makes a {type(found).__name__}, not a network (torch.nn.Module)"
        )
    return found


def _shape(tensor: torch.Tensor) -> str:
    return "open" if is_lazy(tensor) else str(tuple(tensor.shape))


def _name(network: Network) -> str:
    kind = type(network) if isinstance(network, nn.Module) else network
    return str(getattr(kind, "__qualname__", type(kind).__qualname__))


def _without_numbers(module: nn.Module) -> dict[int, Any]:
    """Return meta tensors to replace a module's tensors, as ``memo`` of :func:`copy.deepcopy`."""
    memo: dict[int, Any] = {}
    for p in module.parameters():
        if not is_lazy(p):
            empty = torch.empty_like(p, device="meta")
            memo[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return memo
