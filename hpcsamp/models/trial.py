"""Try a network with two items of zeros before a run is set up.

Its outputs are compared with what the data require, so that a network that does not fit is refused
at the start, with both shapes. The network is tried unsplit, even if it will be split over model
ranks: the items are whole ones, and nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.layers import ALONE, along, current
from hpcsamp.models import head
from hpcsamp.models.blank import blank
from hpcsamp.models.factory import BuiltNetwork, Data, Shape, layout_hint
from hpcsamp.models.several_outputs import parted
from hpcsamp.weights.calling import Caller, entries
from hpcsamp.weights.outputs import tensor_of

ITEMS = 2
"""Number of items of a trial."""


def blank_items(data: Data, like: nn.Module) -> Tensor:
    """Return items of zeros, on the device and of the type of a network's weights."""
    weights = [p for p in like.parameters() if p.is_floating_point() and not is_lazy(p)][:1]
    kinds = [p.dtype for p in weights] or [torch.get_default_dtype()]
    return data.batch(ITEMS, kinds[0], weights[0].device if weights else None)


def check(name: str, make: Callable[[], BuiltNetwork], data: Data, entry: str | None) -> bool:
    """Check that a network fits the data; this uses no memory if the network runs without values.

    Parameters
    ----------
    name
        Name of the model, for messages.
    make
        Function that makes the network.
    data
        Requirements of the data.
    entry
        Value of ``model.output``.

    Returns
    -------
    bool
        Whether one of several tensors that the network returns must be selected.

    Raises
    ------
    UsageError
        If the network does not run, or its outputs do not fit; the message names layers.
    """
    with along(ALONE):
        try:
            with blank():
                network, guess = make()
                returned = evaluate(network, blank_items(data, network))
        except Exception:  # perhaps only because it needs values
            network, guess = make()
            returned = _with_values(name, network, data)
    if data.parts and entry is None:
        parted(returned, data.parts, f"model {name!r}")
        return False
    several = [t for _, t in entries(returned)]
    if entry is None and len(several) > 1 and _fills(several, data.outputs):
        return False  # all of them are needed
    found = tensor_of(returned, f"model {name!r}", entry)
    _compare(name, network, found, data, guess)
    return not isinstance(returned, Tensor) or entry is not None


def _fills(outputs: list[Tensor], wanted: int) -> bool:
    """Whether several outputs together have the required number of values per item."""
    rows = all(t.dim() and len(t) == ITEMS for t in outputs)
    return rows and sum(t.numel() for t in outputs) == ITEMS * wanted


def evaluate(network: nn.Module, x: Tensor) -> Any:
    """Return the outputs of a network in evaluation mode; its modes are restored."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            return Caller(network).returned(x)
    finally:
        for part, mode in modes:
            part.training = mode


def _with_values(name: str, network: nn.Module, data: Data) -> Any:
    layers: list[str] = []
    try:
        with _followed(network, layers):
            return evaluate(network, blank_items(data, network))
    except HpcsampError:
        raise
    except Exception as e:
        at = f"{layers[-1]}: " if layers else ""
        line = " ".join(str(e).split())[:200] or type(e).__name__
        text = f"model.name = {name!r} does not take items of shape {data.in_shape}"
        given, other = ("ids", "numbers") if data.ids else ("numbers", "ids")
        several = isinstance(data.in_shape, Mapping)
        if not several and _runs(network, blank_items(data._replace(ids=not data.ids), network)):
            raise UsageError(
                f"model.name = {name!r}: the network takes {other}, not {given} ({at}{line}); "
                f"ingest the inputs with --inputs {other}, or name another network"
            ) from e
        raise UsageError(
            f"{text} ({given}; a batch is {_items(data.in_shape)}): {at}{line}"
            f"{layout_hint(data.in_shape)}"
        ) from e


def _items(shape: Shape) -> str:
    """Shape of a batch, for messages."""
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_items(s)}" for name, s in shape.items())
    return f"({', '.join(map(str, ('B', *shape)))})"


def _runs(network: nn.Module, x: Tensor) -> bool:
    try:
        evaluate(network, x)
    except Exception:
        return False
    return True


@contextmanager
def _followed(network: nn.Module, layers: list[str]) -> Iterator[None]:
    """Context that keeps the names of the layers being evaluated, the innermost last."""
    handles = []
    for name, part in network.named_modules():
        shown = f"{name}, a {type(part).__name__}" if name else type(part).__name__
        handles.append(part.register_forward_pre_hook(lambda *_, shown=shown: layers.append(shown)))
        handles.append(part.register_forward_hook(lambda *_: layers.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(name: str, network: nn.Module, found: Tensor, data: Data, guess: str) -> None:
    of = f"model.name = {name!r}"
    shape = tuple(found.shape)
    batch = ("B", *shape[1:])
    if not shape or shape[0] != ITEMS:
        raise UsageError(
            f"{of} has outputs of shape {shape} for {ITEMS} items of shape {data.in_shape}; their "
            f"first axis must be that of the batch"
        )
    if not found.is_floating_point() and not found.is_complex():
        raise UsageError(f"{of} has outputs of {found.dtype}; floating-point numbers are needed")
    size = found[0].numel()
    if data.outputs == size:
        return
    items = _items(data.in_shape)
    text = (
        f"{of} has outputs of shape ({', '.join(map(str, batch))}) for inputs of shape {items}, "
        f"but the data need {_wanted(data)}"
    )
    if guess:
        text += f"; model.{guess} = {data.outputs} did not change that"
    last = head.features(network, found.shape)
    if last:
        text += f'; its last layer may be replaced by model.head = "{last[-1]}"'
    raise UsageError(
        f"{text}; its last linear layers are {head.listed(network)}{layout_hint(data.in_shape)}"
    )


def _wanted(data: Data) -> str:
    if data.classes is None:
        return f"(B, {data.outputs})"
    places = data.outputs // data.classes
    return (
        f"(B, {data.classes}, ...) with {places} pixels or steps, {data.outputs} numbers per item"
    )


def initialise(name: str, network: nn.Module, data: Data) -> None:
    """Initialise lazy layers by a pass with two items of zeros.

    Raises
    ------
    UsageError
        On several model ranks, because none has whole items; the message names the layer.
    """
    lazy = (
        (path, part)
        for path, part in network.named_modules()
        for p in (*part._parameters.values(), *part._buffers.values())
        if p is not None and is_lazy(p)
    )
    for path, part in lazy:
        if current().size > 1:
            raise UsageError(
                f"{path or 'the network'}, a {type(part).__name__}, takes its shape from the first "
                f"batch and cannot be split over {current().size} model ranks: build the network "
                f"from the layers of hpcsamp.layers, or set parallel.model = 1"
            )
        _with_values(name, network, data)
        return
